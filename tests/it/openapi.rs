//! The API is as its description says.

use serde_json::{Value, json};

use super::support::exchange::{Response, exchange};
use super::support::perch::{Start, free_port, perch};
use super::support::python;

/// What was really answered, for the one who compares.
struct Answers {
    port: u16,
    cookie: String,
    seen: Vec<Value>,
}

impl Answers {
    /// Asks for `path`, which is the document's `pattern`.
    fn ask(&mut self, method: &str, pattern: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let cookie = self.cookie.clone();
        let headers: Vec<_> = headers.iter().copied().chain([("Cookie", cookie.as_str())]).collect();
        let answer = exchange(&method.to_uppercase(), &format!("http://127.0.0.1:{}{path}", self.port), &headers, body);
        if let Some(given) = answer.header("Set-Cookie") {
            given.split(';').next().unwrap().clone_into(&mut self.cookie);
        }
        let kind = answer.header("Content-Type").map(|kind| kind.split(';').next().unwrap().to_owned());
        let text: Option<Value> = serde_json::from_slice(&answer.body).ok();
        self.seen.push(json!({
            "method": method, "path": pattern, "status": answer.status, "type": kind, "body": text,
        }));
        answer
    }

    fn get(&mut self, path: &str) -> Response {
        self.ask("get", path, path, &[], b"")
    }
}

#[test]
fn what_is_answered_is_what_the_document_says() {
    let port = free_port();
    let _perch = Start::with_text(&format!("[http]\nlisten = \"127.0.0.1:{port}\"\n")).ready();
    let mut answers = Answers { port, cookie: String::new(), seen: Vec::new() };
    let json = [("Content-Type", "application/json")];
    let served = answers.get("/api/openapi.json");
    let printed = perch(&["openapi"]).stdout;
    assert_eq!(served.text().trim(), String::from_utf8(printed).unwrap().trim());
    let document: Value = serde_json::from_slice(&served.body).unwrap();
    let page = answers.get("/").text();
    let asset = page.split('"').find(|text| text.starts_with("/assets/")).expect("the page has parts").to_owned();
    answers.ask("get", "/assets/{version}/{name}", &asset, &[], b"");
    answers.get("/health");
    answers.get("/api/ws");
    let challenge = "/.well-known/acme-challenge/{token}";
    answers.ask("get", challenge, &challenge.replace("{token}", "none"), &[], b"");
    answers.get("/ready");
    let said = answers.ask("post", "/api/chat", "/api/chat", &json, b"{\"message\": \"hello\"}");
    let said: Value = serde_json::from_slice(&said.body).unwrap();
    let id = said["conversation"].as_str().unwrap();
    let again = json!({ "message": "and again", "conversation": id }).to_string();
    let stream = [json[0], ("Accept", "text/event-stream")];
    answers.ask("post", "/api/chat", "/api/chat", &stream, again.as_bytes());
    answers.ask("post", "/api/chat", "/api/chat", &json, b"{}");
    answers.ask("post", "/api/chat", "/api/chat", &json, b"{\"message\": \"hello\", \"conversation\": \"nobody's\"}");
    answers.ask("post", "/api/chat", "/api/chat", &[], b"hello");
    let listed = answers.get("/api/conversations");
    assert!(listed.text().contains(id), "{}", listed.text());
    let one = format!("/api/conversations/{id}");
    let read = answers.ask("get", "/api/conversations/{id}", &one, &[], b"");
    assert!(read.text().contains("and again"), "{}", read.text());
    answers.get("/api/export");
    let completions = "/v1/chat/completions";
    let mut asked = json!({ "model": "perch", "messages": [{ "role": "user", "content": "hello" }] });
    answers.ask("post", completions, completions, &json, asked.to_string().as_bytes());
    asked["stream"] = true.into();
    answers.ask("post", completions, completions, &json, asked.to_string().as_bytes());
    answers.ask("post", completions, completions, &json, b"{}");
    answers.get("/v1/models");
    answers.ask("get", "/v1/models/{model}", "/v1/models/perch", &[], b"");
    answers.ask("get", "/v1/models/{model}", "/v1/models/parrot", &[], b"");
    answers.ask("delete", "/api/conversations/{id}", &one, &[], b"");
    answers.ask("get", "/api/conversations/{id}", &one, &[], b"");
    answers.ask("delete", "/api/conversations", "/api/conversations", &[], b"");
    // Nothing of the document is left untried.
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let tried = |seen: &Value| seen["path"] == **path && seen["method"] == **method;
            // They need another side: what they refuse is tried.
            let odd = path == "/api/ws" || path.starts_with("/.well-known/");
            let good = |seen: &Value| odd || seen["status"].as_u64() < Some(300);
            assert!(answers.seen.iter().any(|seen| tried(seen) && good(seen)), "{method} {path}: {:#?}", answers.seen);
        }
    }
    let wish = json!({ "document": document, "exchanges": answers.seen });
    python::run("check_openapi.py", wish.to_string().as_bytes());
}

#[test]
fn an_answer_that_is_not_as_the_document_says_is_noticed() {
    let document: Value = serde_json::from_slice(&perch(&["openapi"]).stdout).unwrap();
    let body = json!({ "ready": "yes", "more": 1 });
    let odd = json!({ "method": "get", "path": "/ready", "status": 200, "type": "application/json", "body": body });
    let wish = json!({ "document": document, "exchanges": [odd] });
    assert!(!python::accepts("check_openapi.py", wish.to_string().as_bytes()));
}
