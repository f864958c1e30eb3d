//! A fake Salesforce on loopback. It accepts every assertion and identity token, or sends chosen bytes.

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

pub struct Salesforce {
    pub url: String,
    told: Mutex<Option<Vec<u8>>>,
}

impl Salesforce {
    pub async fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let salesforce = Arc::new(Self { url, told: Mutex::default() });
        let answering = salesforce.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answering.clone().answer(stream));
            }
        });
        salesforce
    }

    /// Sets the bytes of every response from now on. `None` means a success.
    pub fn say(&self, told: Option<Vec<u8>>) {
        *self.told.lock().expect("not poisoned") = told;
    }

    /// Responds to one request and closes the connection.
    async fn answer(self: Arc<Self>, mut stream: TcpStream) -> Option<()> {
        let request = read(&mut stream).await?;
        let told = self.told.lock().expect("not poisoned").clone();
        let answer = told.unwrap_or_else(|| good(&request));
        stream.write_all(&answer).await.ok()?;
        stream.shutdown().await.ok()
    }
}

/// Reads a whole request, head and body.
async fn read(stream: &mut TcpStream) -> Option<String> {
    let mut request = Vec::new();
    loop {
        if stream.read_buf(&mut request).await.ok()? == 0 {
            return None;
        }
        let text = String::from_utf8_lossy(&request);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length =
            head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            return Some(text.into_owned());
        }
    }
}

fn good(request: &str) -> Vec<u8> {
    let (_, body) = request.split_once("\r\n\r\n").unwrap_or_default();
    let said = if request.starts_with("POST /services/oauth2/token ") {
        json!({"access_token": "00D!an-access-token", "token_type": "Bearer", "instance_url": "https://acme.my.salesforce.com"})
    } else {
        let asked: Value = serde_json::from_str(body).expect("tokenmint sends JSON");
        let token = asked["customerIdentityToken"].as_str().expect("an identity token");
        let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).expect("a payload")).expect("base64url");
        let payload: Value = serde_json::from_slice(&payload).expect("JSON");
        let session = format!("v2/iamessage/AUTH/Web/uid:{}", payload["sub"].as_str().expect("a sub"));
        json!({"accessToken": "a-messaging-token", "lastEventId": "0", "context": {"endUser": {"subject": session}}})
    };
    let said = said.to_string();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{said}", said.len())
        .into_bytes()
}
