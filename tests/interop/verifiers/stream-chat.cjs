// Makes the token of a user of Stream, as a backend would that has the API secret.
// usage: node stream-chat.cjs API_SECRET USER_ID EXP IAT -> the token, as a JSON string
const { StreamChat } = require('stream-chat');

const [secret, userId, exp, iat] = process.argv.slice(2);
const token = new StreamChat('api-key', secret).createToken(userId, Number(exp), Number(iat));
console.log(JSON.stringify(token));
