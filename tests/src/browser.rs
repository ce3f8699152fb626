//! A real browser without a window: Chromium, driven over WebDriver, which is plain HTTP.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Process, free_port, planted, wait_for};

/// How long starting the driver and the browser may take, on a machine that does much else.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long what is waited for may take to be on a page.
const PAGE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the browser may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(20);
/// The name under which WebDriver tells an element's id.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser with one window; it ends with this value.
pub struct Browser {
    client: reqwest::Client,
    session: String,
    // In this order: the driver ends when it has ended the browser, then its folder goes.
    _driver: Process,
    _folder: TempDir,
}

impl Browser {
    /// Starts one whose user prefers this language, such as `es-MX`.
    pub async fn start(language: &str) -> Self {
        let folder = TempDir::with_prefix("relevo-browser-").expect("a folder for the browser");
        let port = free_port();
        let driver = Process::program(Path::new("chromedriver"))
            .arg(format!("--port={port}"))
            .env("HOME", folder.path())
            .spawn();
        let client = reqwest::Client::builder()
            .timeout(START_TIMEOUT)
            .no_proxy()
            .build()
            .expect("a client for the driver");
        let url = format!("http://127.0.0.1:{port}");
        wait_for("the browser's driver", START_TIMEOUT, async || {
            assert!(driver.exited().is_none(), "it ended:\n{}", driver.output());
            let status = client.get(format!("{url}/status")).send().await.ok()?;
            status.status().is_success().then_some(())
        })
        .await;
        let profile = folder.path().join("profile");
        let arguments = [
            "--headless".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-quic".to_owned(),
            "--no-first-run".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--disable-sync".to_owned(),
            "--window-size=1280,900".to_owned(),
            format!("--accept-lang={language}"),
            format!("--user-data-dir={}", profile.display()),
        ];
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }}});
        let answer = client
            .post(format!("{url}/session"))
            .json(&capabilities)
            .send()
            .await
            .expect("start the browser");
        let answer: Value = answer.json().await.expect("the driver answers JSON");
        let id = answer["value"]["sessionId"].as_str().unwrap_or_else(|| {
            panic!("the browser did not start: {answer}\n{}", driver.output());
        });
        Self { client, session: format!("{url}/session/{id}"), _driver: driver, _folder: folder }
    }

    /// Opens an address and waits until its page has loaded.
    pub async fn open(&self, url: &str) {
        self.command(Method::POST, "/url", &json!({"url": url})).await;
        let page = self.script("return document.documentElement.outerHTML").await;
        planted::assert_absent(&format!("the page {url}"), page.as_str().unwrap_or_default());
    }

    /// The address of the page.
    pub async fn address(&self) -> String {
        let value = self.command(Method::GET, "/url", &Value::Null).await;
        value.as_str().expect("an address").to_owned()
    }

    /// Clicks what a CSS selector finds first.
    pub async fn click(&self, selector: &str) {
        let element = self.find(selector).await;
        self.command(Method::POST, &format!("/element/{element}/click"), &json!({})).await;
    }

    /// Types into what a CSS selector finds first, in the place of what stands there.
    pub async fn fill(&self, selector: &str, text: &str) {
        let element = self.find(selector).await;
        self.command(Method::POST, &format!("/element/{element}/clear"), &json!({})).await;
        let keys = json!({ "text": text });
        self.command(Method::POST, &format!("/element/{element}/value"), &keys).await;
    }

    /// The text of what a CSS selector finds first, as it is shown.
    pub async fn text(&self, selector: &str) -> String {
        let element = self.find(selector).await;
        let path = format!("/element/{element}/text");
        let text = self.command(Method::GET, &path, &Value::Null).await;
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until `probe`, an expression, is something else than false, null and nothing, and
    /// returns it.
    pub async fn wait(&self, probe: &str) -> Value {
        wait_for(&format!("`{probe}` in the browser"), PAGE_TIMEOUT, async || {
            // A page that is just being left has nothing to tell.
            let value = self.try_script(&format!("return ({probe})")).await.ok()?;
            let empty = value.is_null() || value == json!(false) || value == json!("");
            (!empty).then_some(value)
        })
        .await
    }

    /// Runs a script on the page; `return` gives its value.
    pub async fn script(&self, script: &str) -> Value {
        self.try_script(script).await.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// A width and height of the window, as of a phone.
    pub async fn resize(&self, width: u32, height: u32, is_mobile: bool) {
        let metrics = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_mobile,
        });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    /// Whether the user prefers dark pages.
    pub async fn prefer_dark(&self, is_dark: bool) {
        let value = if is_dark { "dark" } else { "light" };
        let feature = json!({"features": [{"name": "prefers-color-scheme", "value": value}]});
        self.devtools("Emulation.setEmulatedMedia", feature).await;
    }

    /// Whether the browser can reach anything at all.
    pub async fn set_offline(&self, is_offline: bool) {
        let conditions = json!({
            "offline": is_offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1,
        });
        self.devtools("Network.enable", json!({})).await;
        self.devtools("Network.emulateNetworkConditions", conditions).await;
    }

    async fn devtools(&self, command: &str, parameters: Value) {
        let body = json!({"cmd": command, "params": parameters});
        self.command(Method::POST, "/goog/cdp/execute", &body).await;
    }

    /// Errors and warnings that pages have left in the browser's own console since the last call.
    pub async fn complaints(&self) -> Vec<String> {
        let entries = self.log("browser").await;
        let told = |entry: &Value| entry["message"].as_str().unwrap_or_default().to_owned();
        entries
            .iter()
            .filter(|entry| entry["level"] == "SEVERE" || entry["level"] == "WARNING")
            .map(told)
            .collect()
    }

    /// Addresses that the browser has asked for since the last call, whatever for.
    pub async fn requested(&self) -> Vec<String> {
        let entries = self.log("performance").await;
        let message = |entry: &Value| -> Option<String> {
            let event: Value = serde_json::from_str(entry["message"].as_str()?).ok()?;
            let event = &event["message"];
            (event["method"] == "Network.requestWillBeSent")
                .then(|| event["params"]["request"]["url"].as_str().map(str::to_owned))?
        };
        entries.iter().filter_map(message).collect()
    }

    async fn log(&self, kind: &str) -> Vec<Value> {
        let entries = self.command(Method::POST, "/se/log", &json!({ "type": kind })).await;
        entries.as_array().cloned().unwrap_or_default()
    }

    /// The whole page as a PNG, for a person to look at.
    pub async fn screenshot(&self, path: &Path) {
        let shot = json!({
            "cmd": "Page.captureScreenshot",
            "params": {"format": "png", "captureBeyondViewport": true},
        });
        let shot = self.command(Method::POST, "/goog/cdp/execute", &shot).await;
        let text = shot["data"].as_str().expect("a picture");
        std::fs::write(path, decode_base64(text)).expect("store the picture");
    }

    async fn find(&self, selector: &str) -> String {
        let by = json!({"using": "css selector", "value": selector});
        let found = wait_for(&format!("{selector} on the page"), PAGE_TIMEOUT, async || {
            self.send(Method::POST, "/element", &by).await.ok()
        })
        .await;
        found[ELEMENT].as_str().expect("an element's id").to_owned()
    }

    async fn try_script(&self, script: &str) -> Result<Value, String> {
        self.send(Method::POST, "/execute/sync", &json!({"script": script, "args": []})).await
    }

    async fn command(&self, method: Method, path: &str, body: &Value) -> Value {
        self.send(method, path, body)
            .await
            .unwrap_or_else(|error| panic!("the browser refused {path} {body}: {error}"))
    }

    async fn send(&self, method: Method, path: &str, body: &Value) -> Result<Value, String> {
        let mut request = self.client.request(method, format!("{}{path}", self.session));
        if !body.is_null() {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(|error| error.to_string())?;
        let is_success = answer.status().is_success();
        let mut answer: Value = answer.json().await.map_err(|error| error.to_string())?;
        let value = answer["value"].take();
        if is_success { Ok(value) } else { Err(value["message"].to_string()) }
    }
}

impl Drop for Browser {
    /// The driver would leave the browser running when it is killed: it is told to end it first.
    fn drop(&mut self) {
        let Some((host, path)) = self.session.trim_start_matches("http://").split_once('/') else {
            return;
        };
        if let Ok(mut stream) = TcpStream::connect(host) {
            let request =
                format!("DELETE /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            stream.set_read_timeout(Some(END_TIMEOUT)).ok();
            stream.write_all(request.as_bytes()).ok();
            stream.read_exact(&mut [0; 1]).ok();
        }
    }
}

fn decode_base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for digit in text.bytes().filter_map(|byte| DIGITS.iter().position(|digit| *digit == byte)) {
        bits = bits << 6 | u32::try_from(digit).unwrap_or_default();
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).unwrap_or_default());
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_reads_back() {
        assert_eq!(decode_base64("UmVsZXZv"), b"Relevo");
        assert_eq!(decode_base64("aGE="), b"ha");
    }
}
