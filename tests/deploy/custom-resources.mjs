// Holds custom resources against the schemas that their operators' packages were made from.
//
//   node custom-resources.mjs NODE_FOLDER < resources.json        a JSON list; one line for each fault, exit code 1
//
// Two looks at each: the package's validator knows values (enums, patterns, what is required) and lets unknown fields
// pass; its TypeScript types know every field, and a misspelt one is what a person gets wrong.
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const PACKAGES = {
  'monitoring.coreos.com': '@kubernetes-models/prometheus-operator',
  'cert-manager.io': '@kubernetes-models/cert-manager',
  'external-secrets.io': '@kubernetes-models/external-secrets',
};

const folder = process.argv[2];
const ts = createRequire(join(folder, 'package.json'))('typescript');
const faults = [];

const typed = [];
for (const resource of JSON.parse(readFileSync(0, 'utf8'))) {
  const { apiVersion, kind } = resource;
  const from = PACKAGES[apiVersion.split('/')[0]];
  if (!from) throw new Error(`no package here knows ${apiVersion}`);
  const models = await import(pathToFileURL(join(folder, 'node_modules', from, apiVersion, `${kind}.js`)));
  try {
    new models[kind](resource).validate();
  } catch (error) {
    faults.push(`${kind}: ${error.message}`);
  }
  const type = `I${kind}${typed.length}`;
  typed.push(`import { I${kind} as ${type} } from "${from}/${apiVersion}/${kind}";
export const resource${typed.length}: ${type} = ${JSON.stringify(resource, null, 1)};`);
}

// A file that only the compiler sees, beside node_modules, from where it finds the types.
const file = join(folder, 'resources.ts');
const options = {
  noEmit: true, strict: true, skipLibCheck: true, types: [],
  module: ts.ModuleKind.NodeNext, moduleResolution: ts.ModuleResolutionKind.NodeNext, target: ts.ScriptTarget.ES2022,
};
const host = ts.createCompilerHost(options);
const { fileExists, readFile } = host;
host.fileExists = (name) => name === file || fileExists(name);
host.readFile = (name) => (name === file ? typed.join('\n') : readFile(name));
for (const { messageText } of ts.getPreEmitDiagnostics(ts.createProgram([file], options, host))) {
  faults.push(ts.flattenDiagnosticMessageText(messageText, ' '));
}
for (const fault of faults) console.log(fault);
process.exitCode = faults.length ? 1 : 0;
