// Makes one query with jsforce, given an access token, as an application would that got it from tokenmint.
// usage: node jsforce.cjs INSTANCE_URL ACCESS_TOKEN -> the first record as JSON; exit code 1 if the session is refused
const [instanceUrl, accessToken] = process.argv.slice(2);
const jsforce = require('jsforce');

const connection = new jsforce.Connection({ instanceUrl, accessToken });
connection.query('SELECT Id, Name FROM Account LIMIT 1').then(
  ({ records }) => console.log(JSON.stringify(records[0])),
  (error) => {
    const refusal = error.errorCode === 'INVALID_SESSION_ID';
    console.error(refusal ? `refused: ${error.errorCode}` : error);
    process.exitCode = refusal ? 1 : 2;
  },
);
