const html = (text) => text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
const json = (value) => JSON.stringify(value ?? null).replaceAll("<", "\\u003c"); // the value can't end a <script>

export const page = (user, tokens) => `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Chat tokens</title>
${user ? signedIn(user, tokens) : signedOut}`;

const signedIn = (user, tokens) => `
<p>Signed in as <strong>${html(user)}</strong></p>
<form id="logout" method="post" action="/logout"><button>Sign out</button></form>
<script type="application/json" id="chat-tokens">${json(tokens)}</script>
<script>
  const user = ${json(user)};
  const chat = JSON.parse(document.getElementById("chat-tokens").textContent); // null: anonymous, until there are some
  window.intercomSettings = {
    api_base: "https://api-iam.intercom.io",
    app_id: "your-app-id-here",
    ...(chat && { user_id: user, ...chat.tokens }),
  };
</script>
<script type="module">
  import { chatTokens } from "/tokenmint.js";
  const fresh = chatTokens({ url: "/chat-tokens", initial: chat, fin: { user_id: user } });
  const form = document.getElementById("logout");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    fresh.logout().finally(() => form.submit());
  });
</script>
<!-- Put Intercom's snippet here, unchanged, and Salesforce's if you have it. -->
`;

const signedOut = `
<form method="post" action="/login"><input name="user" aria-label="User" required> <button>Sign in</button></form>
`;
