// Runs a recipe of docs/integrate/oauth-clients.md: each line of the input is a query, and each line of the output its result.
// usage: node driver.mjs FILE
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const file = pathToFileURL(process.argv[2]).href;
let attempts = 0;
let recipe;
console.log('"ready"');
for await (const line of createInterface({ input: process.stdin })) {
  let result;
  try {
    // Another address for each attempt: Node caches the failure of a module.
    recipe ??= await import(`${file}?${attempts++}`);
    result = { records: await recipe.query(line) };
  } catch (error) {
    // oauth4webapi leaves the body of a 401 to the application.
    const body = error.response?.bodyUsed === false ? await error.response.text() : '';
    result = { error: [error.name, error.code, error.error, error.message, body].filter(Boolean).join(': ') };
  }
  console.log(JSON.stringify(result));
}
