//! Files that people send along: what is taken, what is refused and why, and what a model gets of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::aws::Peer;
use super::support::chat;
use super::support::perch::{PATIENCE, Perch, Start, free_port, wait};
use super::support::upload::{BOUNDARY, Form, Upload, content_type, gif, jpeg, pdf, png, post, told};
use super::support::upstream::{Fault, MODEL, Upstream};

const MIB: usize = 1 << 20;

/// perch that says back what it is told.
fn echo() -> (Perch, u16) {
    let port = free_port();
    (Start::with_text(&format!("[http]\nlisten = \"127.0.0.1:{port}\"\n")).ready(), port)
}

/// perch with an API behind its chat, and these lines in `[chat]`.
fn model(base_url: &str, lines: &str) -> (Perch, u16) {
    let port = free_port();
    let text = format!(
        "[http]\nlisten = \"127.0.0.1:{port}\"\n[chat]\nbackend = \"openai\"\nbase_url = \"{base_url}\"\nmodel = \
         \"{MODEL}\"\n{lines}\n"
    );
    let perch = Start::with_text(&text).ready();
    perch.wait_status("the chat", |status| status["services"]["chat"]["state"] == "running");
    (perch, port)
}

#[test]
fn curl_sends_four_files_and_the_echo_says_what_they_are() {
    let (_perch, port) = echo();
    let directory = tempfile::tempdir().unwrap();
    let files = [("cat.png", png(640, 480, 2_000)), ("cat.JPG", jpeg()), ("cat.gif", gif()), ("cat.pdf", pdf(""))];
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "20", "-F", "message=look at this"]);
    for (name, content) in &files {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        curl.arg("-F").arg(format!("file=@{}", path.display()));
    }
    let answer = curl.arg(format!("http://127.0.0.1:{port}/api/chat")).output().unwrap();
    let answer: Value = serde_json::from_slice(&answer.stdout).unwrap_or_else(|_| panic!("{answer:?}"));
    insta::assert_snapshot!(answer["reply"].as_str().unwrap(), @"
    look at this
    [cat.png (image/png, 2 KiB)]
    [cat.JPG (image/jpeg, 53 B)]
    [cat.gif (image/gif, 36 B)]
    [cat.pdf (application/pdf, 87 B)]
    ");
    assert_eq!(answer["conversation"].as_str().map(str::len), Some(32));
}

#[test]
fn fields_may_come_in_any_order_and_a_message_may_be_empty() {
    let (_perch, port) = echo();
    let hello = Form::saying("hello").post(port);
    let begun: Value = serde_json::from_slice(&hello.body).unwrap();
    let id = begun["conversation"].as_str().unwrap();
    let form = Form::default().file("cat.gif", "image/gif", &gif()).field("conversation", id).field("message", "last");
    let answer = form.post_as(&hello, port);
    assert_eq!(told(&answer), "200: last\n[cat.gif (image/gif, 36 B)]");
    assert_eq!(serde_json::from_slice::<Value>(&answer.body).unwrap()["conversation"], id);
    let none_chosen =
        "Content-Disposition: form-data; name=\"file\"; filename=\"\"\r\nContent-Type: application/octet-stream";
    assert_eq!(Form::saying("no file").part(none_chosen, b"").told(port), "200: no file");
    let alone = Form::default().file("cat.gif", "image/gif", &gif());
    assert_eq!(alone.clone().told(port), "200: [cat.gif (image/gif, 36 B)]");
    assert_eq!(alone.field("somebody-elses", &"x".repeat(70_000)).told(port), "200: [cat.gif (image/gif, 36 B)]");
    assert_eq!(Form::saying(" ").told(port), "400: `message` is empty");
    let stranger = Form::saying("hello").field("conversation", "0123456789abcdef0123456789abcdef");
    assert!(stranger.told(port).starts_with("404: "));
}

#[test]
fn name_type_and_content_have_to_agree() {
    let (_perch, port) = echo();
    let told =
        |name: &str, media_type: &str, content: &[u8]| Form::saying("look").file(name, media_type, content).told(port);
    let told = [
        told("cat.exe", "image/png", &png(2, 2, 0)),
        told("cat.svg", "image/svg+xml", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"),
        told("cat.png", "image/jpeg", &png(2, 2, 0)),
        told("cat.png", "multipart/mixed; boundary=x", b"--x\r\n\r\n\r\n--x--"),
        told("cat.png", "image/png", &jpeg()),
        told("cat.jpg", "image/jpeg", &png(2, 2, 0)),
        told("cat.gif", "image/gif", b"GIF89a\x01\0\x01\0\0\0\0=1;alert(1)//"),
        told("cat.pdf", "application/pdf", &[gif(), pdf("")].concat()),
        told("cat.png", "image/png", b""),
        told("cat.png", "image/png", &png(50_000, 50_000, 5 * MIB)),
        told("cat.pdf", "application/pdf", &pdf("/AA << /O << /S /JavaScript /JS (app.alert(1)) >> >>")),
        told("cat.pdf", "application/pdf", &pdf("/Names << /EmbeddedFiles 2 0 R >>")),
        Form::saying("look").part("Content-Disposition: form-data; name=\"file\"", b"text").told(port),
        Form::saying("look")
            .part("Content-Disposition: form-data; name=\"file\"; filename=\"a.pdf\"", &pdf(""))
            .told(port),
    ];
    insta::assert_snapshot!(told.join("\n"), @"
    415: `cat.exe` is none of pdf, png, jpg, jpeg and gif by its name
    415: `cat.svg` is none of pdf, png, jpg, jpeg and gif by its name
    415: `cat.png` is image/png by its name, and declared as `image/jpeg`
    415: `cat.png` is image/png by its name, and declared as `multipart/mixed`
    415: `cat.png` is no PNG: it does not begin like one
    415: `cat.jpg` is no JPEG: it does not begin like one
    415: `cat.gif` is no GIF: there is something in it that belongs to none
    415: `cat.pdf` is no PDF: it does not begin like one
    415: `cat.png` is no PNG: it does not begin like one
    415: `cat.png` has 50000 × 50000 pixels; 8000 a side and 40 million in all are the most
    415: `cat.pdf` does something by itself when it is read; print it to a PDF anew to have it taken
    415: `cat.pdf` has other files in it; print it to a PDF anew to have it taken
    415: `` is none of pdf, png, jpg, jpeg and gif by its name
    415: `a.pdf` is application/pdf by its name, and declared as nothing; send its Content-Type
    ");
}

#[test]
fn a_name_comes_back_as_text_that_plays_no_tricks() {
    let (_perch, port) = echo();
    let told = |name: &str| Form::default().file(name, "image/gif", &gif()).told(port);
    let told = [
        told("../../../etc/cron.d/cat.gif"),
        told("C:\\Users\\me\\cat.gif"),
        told("innocent\u{202e}gnp.gif"),
        told("<img src=x onerror=alert(1)>.gif"),
        told("\\\"quoted\\\".gif"),
        told("%2e%2e%2fcat.gif"),
        told(&format!("{}.gif", "long ".repeat(500))),
        told("a.gif\"; filename=\"b.exe"),
        told("猫.gif"),
    ];
    insta::assert_snapshot!(told.join("\n"), @r#"
    200: [cat.gif (image/gif, 36 B)]
    200: [cat.gif (image/gif, 36 B)]
    200: [innocentgnp.gif (image/gif, 36 B)]
    200: [<img src=x onerror=alert(1)>.gif (image/gif, 36 B)]
    200: ["quoted".gif (image/gif, 36 B)]
    200: [%2e%2e%2fcat.gif (image/gif, 36 B)]
    200: [long long long long long long long long long long long long long long long long long long long ….gif (image/gif, 36 B)]
    200: [a.gif (image/gif, 36 B)]
    200: [猫.gif (image/gif, 36 B)]
    "#);
}

#[test]
fn files_are_counted_as_they_arrive() {
    let (_perch, port) = echo();
    let largest = png(100, 100, 5 * MIB);
    assert_eq!(largest.len(), 5 * MIB);
    let four = (0..4).fold(Form::saying("all"), |form, _| form.file("a.png", "image/png", &largest));
    assert_eq!(four.clone().told(port), format!("200: all{}", "\n[a.png (image/png, 5.0 MiB)]".repeat(4)));
    assert_eq!(four.file("a.gif", "image/gif", &gif()).told(port), "413: a message takes 4 files at most");
    let larger = Form::saying("more").file("a.png", "image/png", &png(100, 100, 5 * MIB + 1));
    assert_eq!(larger.told(port), "413: `a.png` is larger than 5 MiB");
    let long = Form::saying(&"x".repeat(66_000)).file("a.gif", "image/gif", &gif());
    assert_eq!(long.told(port), "413: `message` is larger than 65536 bytes");

    // Nobody has to say how much is to come.
    let body = Form::saying("chunked").file("a.png", "image/png", &largest).body();
    let mut upload = Upload::begin(port, "Transfer-Encoding: chunked");
    body.chunks(100_000).for_each(|piece| upload.chunk(piece));
    upload.chunk(b"");
    assert_eq!(upload.answer().0, 200);
    let mut endless = Upload::begin(port, "Transfer-Encoding: chunked");
    endless.chunk(&body[..1_000]);
    for _ in 0..8 {
        endless.chunk(&largest[..MIB]);
    }
    endless.chunk(b"");
    let (status, problem) = endless.answer();
    assert!(status == 413 && problem.contains("`a.png` is larger than 5 MiB"), "{status} {problem}");

    // What is announced to be too large is not waited for.
    let announced = Upload::of(port, 100 * MIB);
    assert_eq!(announced.answer().0, 413);
    let patient = Upload::begin(port, &format!("Expect: 100-continue\r\nContent-Length: {}", 30 * MIB));
    assert_eq!(patient.answer().0, 413);
    assert_eq!(chat::ask(port, "still there?"), "still there?");
}

/// What comes of a body that ends `early`, with a length that promises more.
fn cut(port: u16, body: &[u8], early: usize) -> (u16, String) {
    let mut upload = Upload::of(port, body.len());
    upload.send(&body[..early]);
    upload.leave();
    let (status, problem) = upload.answer();
    (status, serde_json::from_str::<Value>(&problem).unwrap()["detail"].as_str().unwrap().to_owned())
}

#[test]
fn what_is_no_form_is_told_so() {
    let (perch, port) = echo();
    let url = format!("http://127.0.0.1:{port}/api/chat");
    let typed = |kind: &str, body: &[u8]| {
        told(&super::support::exchange::exchange("POST", &url, &[("Content-Type", kind)], body))
    };
    let body = Form::saying("hello").file("a.png", "image/png", &png(9, 9, 50_000)).body();
    let many = (0..5_000).fold(Form::default(), |form, number| form.field(&number.to_string(), "x")).body();
    let heads = |count: usize| "X-Head: y\r\n".repeat(count) + "Content-Disposition: form-data; name=\"message\"";
    let told = [
        typed("multipart/form-data", &body),
        typed(&format!("multipart/form-data; boundary={}", "b".repeat(300)), &body),
        typed("multipart/mixed; boundary=x", &body),
        typed("multipart/form-data; boundary=other", &body),
        typed(&content_type(), b""),
        typed(&content_type(), &body[..body.len() - 20]),
        typed(&content_type(), &many),
        told(&Form::default().part(&heads(31), b"31").post(port)),
        told(&Form::default().part(&heads(40), b"40").post(port)),
        told(&Form::default().part(&format!("X-Head: {}", "y".repeat(2 * MIB)), b"").post(port)),
        told(&post(port, &[format!("--{BOUNDARY}\r\n").into_bytes(), vec![b'y'; 2 * MIB]].concat())),
        told(&Form::saying("one").field("message", "two").post(port)),
        told(&Form::default().part("Content-Disposition: form-data; name=\"message\"", b"\xff\xfe").post(port)),
        format!("{:?}", cut(port, &body, 40_000)),
        format!("{:?}", cut(port, &body, 20)),
    ];
    insta::assert_snapshot!(told.join("\n"), @r#"
    400: the request's Content-Type names no boundary of a form (RFC 7578)
    400: the request's Content-Type names no boundary of a form (RFC 7578)
    415: send the message with `Content-Type: application/json`, or with files as `multipart/form-data`
    400: a part's head is too long
    400: the request is no form (RFC 7578): incomplete multipart stream
    400: the request is no form (RFC 7578): field "file" received with incomplete data
    400: the form has more than 16 parts
    200: 31
    400: the request is no form (RFC 7578): failed to read headers
    400: a part's head is too long
    400: a part's head is too long
    400: `message` stands in the form twice
    400: `message` is not UTF-8
    (400, "the request's body ended early")
    (400, "the request's body ended early")
    "#);
    assert_eq!(perch.messages("WARN"), [""; 0]);
    assert_eq!(chat::ask(port, "still there?"), "still there?");
}

/// The files in the last message that the API was sent, decoded.
fn sent(upstream: &Upstream, index: usize) -> Vec<(String, Vec<u8>)> {
    let body = upstream.asked()[index].body.clone();
    let parts = body["messages"].as_array().unwrap().last().unwrap()["content"].clone();
    let data = |part: &Value| {
        let url = part["image_url"]["url"].as_str().or(part["file"]["file_data"].as_str())?;
        let (kind, data) = url.split_once(";base64,").unwrap();
        let name = part["file"]["filename"].as_str().unwrap_or("-");
        Some((format!("{} {kind} {name}", part["type"].as_str().unwrap()), decode(data)))
    };
    parts.as_array().into_iter().flatten().filter_map(data).collect()
}

fn decode(base64: &str) -> Vec<u8> {
    let mut decoder = Command::new("base64");
    let mut decoder = decoder.arg("-d").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = decoder.stdin.take().unwrap();
    let text = base64.to_owned();
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut input, text.as_bytes()).unwrap());
    let output = decoder.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "base64 is not happy with {} characters", base64.len());
    output.stdout
}

#[test]
fn the_model_gets_the_files_of_this_message_and_the_names_of_earlier_ones() {
    let upstream = Upstream::start();
    let (_perch, port) = model(&upstream.url(), "attachments = [\"images\", \"pdf\"]");
    let (picture, document) = (png(640, 480, 100_003), pdf(""));
    let hidden = [&picture[..], b"PK\x03\x04 and an archive"].concat();
    let form = Form::saying("what is \"this\"?").file("cat.png", "image/png", &hidden).file(
        "\\\"a\\\" b.pdf",
        "application/pdf",
        &document,
    );
    let answer = form.post(port);
    assert_eq!(told(&answer), "200: You said: what is \"this\"?");
    let expected = [
        ("image_url data:image/png -".to_owned(), picture),
        ("file data:application/pdf \"a\" b.pdf".to_owned(), document),
    ];
    assert!(
        sent(&upstream, 0) == expected,
        "{:?}",
        sent(&upstream, 0).iter().map(|(kind, _)| kind).collect::<Vec<_>>()
    );
    let conversation = serde_json::from_slice::<Value>(&answer.body).unwrap()["conversation"].clone();
    let form = Form::default().field("conversation", conversation.as_str().unwrap());
    assert_eq!(form.file("cat.gif", "image/gif", &gif()).post_as(&answer, port).status, 200);
    let mut body = upstream.asked()[1].body["messages"].clone();
    assert_eq!(sent(&upstream, 1), [("image_url data:image/gif -".to_owned(), gif())]);
    body[2]["content"][0]["image_url"]["url"] = json!("…");
    insta::assert_snapshot!(body, @r#"[{"content":"what is \"this\"?\n[cat.png (image/png, 98 KiB)]\n[\"a\" b.pdf (application/pdf, 87 B)]","role":"user"},{"content":"You said: what is \"this\"?","role":"assistant"},{"content":[{"image_url":{"url":"…"},"type":"image_url"}],"role":"user"}]"#);
}

#[test]
fn a_try_that_failed_is_made_again_with_the_whole_file() {
    let upstream = Upstream::start();
    let (_perch, port) = model(&upstream.url(), "attachments = \"images\"");
    upstream.fault(Fault::Refuse(500, "", json!({})));
    let picture = png(640, 480, 200_000);
    let form = Form::saying("again").file("cat.png", "image/png", &picture);
    assert_eq!(form.told(port), "200: You said: again");
    for index in 0..2 {
        assert!(sent(&upstream, index)[0].1 == picture);
    }
}

#[test]
fn a_model_that_cannot_read_a_file_is_not_asked() {
    let upstream = Upstream::start();
    let (perch, port) = model(&upstream.url(), "");
    let picture = Form::saying("look").file("cat.png", "image/png", &png(9, 9, 0));
    let document = Form::saying("read").file("cat.pdf", "application/pdf", &pdf(""));
    assert_eq!(picture.clone().told(port), "422: this model reads no files, only text");
    for (attachments, expected) in [
        ("[\"pdf\"]", ["422: this model can't read images", "200: You said: read"]),
        ("\"images\"", ["200: You said: look", "422: this model can't read PDFs"]),
        ("[]", ["422: this model reads no files, only text"; 2]),
    ] {
        let text = std::fs::read_to_string(perch.config_path()).unwrap();
        let kept: String =
            text.lines().filter(|line| !line.starts_with("attachments")).map(|line| format!("{line}\n")).collect();
        std::fs::write(perch.config_path(), format!("{kept}attachments = {attachments}\n")).unwrap();
        let said = perch.verb(&["reload"]);
        assert_eq!(said.status.code(), Some(0), "{said:?}");
        assert_eq!([picture.clone().told(port), document.clone().told(port)], expected);
    }
    assert_eq!(upstream.asked().len(), 2);
}

#[test]
fn an_api_that_will_not_have_a_picture_is_understood() {
    let upstream = Upstream::start();
    let (perch, port) = model(&upstream.url(), "attachments = \"images\"");
    let message = "Invalid content type. image_url is only supported by certain models.";
    upstream.fault(Fault::Refuse(400, "", json!({ "error": { "message": message, "code": null } })));
    let answer = Form::saying("look").file("cat.png", "image/png", &png(9, 9, 0)).told(port);
    assert_eq!(
        answer,
        "422: the model can't read what you attached; send it as something else, or describe it in words"
    );
    let warnings = perch.messages("WARN");
    let warning = warnings[0].split_once(" failed: ").unwrap().1.replace(&upstream.host(), "HOST");
    insta::assert_snapshot!(warning, @"HOST would not take image/png (400); say which files `parrot-1` reads with `attachments` in [chat]");
    assert_eq!(warnings.len(), 1);
    // The same words about a message without a file are about something else, and the chat is well.
    assert_eq!(perch.status()["services"]["chat"]["state"], "running");
    upstream.fault(Fault::Refuse(400, "", json!({ "error": { "message": message } })));
    assert_eq!(chat::post(port, "no picture").status, 422);
    assert!(perch.messages("WARN")[1].contains("would not answer"));
}

#[test]
fn aimock_and_fakellm_take_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let installed = Command::new(root.join("tests/upstreams/install")).status().expect("the script is there");
    assert!(installed.success(), "tests/upstreams/install failed");
    let mut node = Command::new("node");
    node.arg(root.join("target/upstreams/aimock.mjs"));
    let rules = tempfile::NamedTempFile::new().unwrap();
    let rule = "version: 1\nrules:\n  - name: hello\n    when: { messages_contain: hello }\n    respond: { content: Hello! }\n";
    std::fs::write(rules.path(), rule).unwrap();
    for peer in [Peer::run(node), Peer::start(Path::new("fakellm"), &[rules.path().to_str().unwrap()])] {
        let (_perch, port) = model(&format!("{}/v1", peer.urls[0]), "attachments = [\"images\", \"pdf\"]");
        let form = Form::saying("hello").file("cat.png", "image/png", &png(9, 9, 300_000));
        let answer = form.file("cat.pdf", "application/pdf", &pdf("")).told(port);
        assert!(answer.starts_with("200: Hello!"), "{answer}");
    }
}

/// Files that `perch` has open, and those in its directories.
fn files(perch: &Perch) -> Vec<PathBuf> {
    let open = std::fs::read_dir(format!("/proc/{}/fd", perch.pid())).unwrap();
    let open = open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok()).filter(|path| path.is_absolute());
    let kept = ["state", "run"].map(|name| std::fs::read_dir(perch.directory().join(name)).unwrap());
    let mut files: Vec<PathBuf> = open.chain(kept.into_iter().flatten().map(|entry| entry.unwrap().path())).collect();
    files.sort();
    files.dedup();
    files
}

#[test]
fn two_hundred_uploads_at_once_stay_within_their_room_and_leave_nothing() {
    let (perch, port) = echo();
    let body = Form::saying("one of many").file("cat.png", "image/png", &png(100, 100, MIB)).body();
    assert_eq!(post(port, &body).status, 200);
    // What perch itself writes at its start is there.
    let known = wait("files that stay the same", || {
        let now = files(&perch);
        std::thread::sleep(Duration::from_millis(200));
        (now == files(&perch)).then_some(now)
    });
    let before = perch.memory();
    let (body, sent, answered) = (Arc::new(body), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let last_byte = Arc::new(std::sync::RwLock::new(()));
    let held = last_byte.write().unwrap();
    let senders: Vec<_> = (0..200)
        .map(|_| {
            let (body, sent, answered) = (Arc::clone(&body), Arc::clone(&sent), Arc::clone(&answered));
            let last_byte = Arc::clone(&last_byte);
            std::thread::spawn(move || {
                let mut upload = Upload::of(port, body.len());
                upload.send(&body[..body.len() - 1]);
                sent.fetch_add(1, Ordering::Relaxed);
                drop(last_byte.read().unwrap());
                upload.send(&body[body.len() - 1..]);
                let (status, text) = upload.answer();
                assert_eq!(status, 200, "{text}");
                answered.fetch_add(1, Ordering::Relaxed);
            })
        })
        .collect();
    wait("as many uploads as there is room for", || {
        (sent.load(Ordering::Relaxed) > 40 && perch.memory() > before + (40 << 20)).then_some(())
    });
    let untouched = |when: &str| wait(when, || (files(&perch) == known).then_some(()));
    untouched("the files as before, an upload touches no disk");
    // Who sends no file is not kept waiting.
    assert_eq!(chat::ask(port, "hello"), "hello");
    assert_eq!(answered.load(Ordering::Relaxed), 0);
    drop(held);
    let peak = AtomicU64::new(0);
    wait("all of them to be answered", || {
        peak.fetch_max(perch.memory(), Ordering::Relaxed);
        (answered.load(Ordering::Relaxed) == 200).then_some(())
    });
    for sender in senders {
        sender.join().unwrap();
    }
    let peak = peak.into_inner();
    // All of them would be 200 MiB. Beside the room there is what 200 connections read at a time.
    assert!(peak < before + (100 << 20), "{peak} bytes at most, {before} before");
    let begun = Instant::now();
    while perch.memory() > before + (16 << 20) {
        assert!(begun.elapsed() < PATIENCE, "{} bytes, {before} before, {peak} at most", perch.memory());
        std::thread::sleep(Duration::from_millis(50));
    }
    untouched("the files as before, an upload leaves nothing");
}

#[test]
fn a_slow_upload_is_given_up_while_others_are_served() {
    let (_perch, port) = echo();
    let body = Form::saying("slow").file("cat.png", "image/png", &png(100, 100, 20 * 1_024)).body();
    let begun = Instant::now();
    // Two of them take nearly all the room that there is; a third waits for it, and whoever comes behind it.
    let mut slow: Vec<Upload> = (0..3).map(|_| Upload::of(port, 20 * MIB)).collect();
    for upload in &mut slow {
        upload.send(&body[..1_000]);
    }
    let quick = std::thread::spawn({
        let body = body.clone();
        move || post(port, &body)
    });
    assert_eq!(chat::ask(port, "hello"), "hello");
    for upload in slow {
        let (status, problem) = upload.answer();
        assert!(status == 408 && problem.contains("the upload came too slowly"), "{status} {problem}");
    }
    assert_eq!(told(&quick.join().unwrap()), "200: slow\n[cat.png (image/png, 20 KiB)]");
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
}

#[test]
fn an_upload_under_way_is_answered_before_perch_ends() {
    let (mut perch, port) = echo();
    let body = Form::saying("under way").file("cat.gif", "image/gif", &gif()).body();
    let mut upload = Upload::of(port, body.len());
    upload.send(&body[..100]);
    // It is being read when somebody behind it was answered.
    assert_eq!(chat::ask(port, "hello"), "hello");
    perch.signal("TERM");
    wait("perch to drain", || (!chat::listens(port)).then_some(()));
    upload.send(&body[100..]);
    assert_eq!(upload.answer().0, 200);
    assert_eq!(perch.wait().code(), Some(0));
}
