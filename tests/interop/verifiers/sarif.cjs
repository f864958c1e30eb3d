// Judges a SARIF log by the 2.1.0 schema of Microsoft's jest-sarif, with the Ajv that is beside it.
// usage: node sarif.cjs LOG -> {}; exit code 1 on refusal
const { readFileSync } = require('node:fs');
const { dirname } = require('node:path');

const sarif = dirname(require.resolve('@microsoft/jest-sarif/package.json'));
const beside = (module) => require(require.resolve(module, { paths: [sarif] }));
const Ajv = beside('ajv');
const schema = require(`${sarif}/lib/schemas/sarif-2.1.0-rtm.5.json`);

const ajv = new Ajv({ allErrors: true, schemaId: 'auto' });
ajv.addMetaSchema(beside('ajv/lib/refs/json-schema-draft-04.json'));
if (ajv.validate(schema, JSON.parse(readFileSync(process.argv[2], 'utf8')))) {
  console.log('{}');
} else {
  console.error(`refused: ${ajv.errorsText()}`);
  process.exitCode = 1;
}
