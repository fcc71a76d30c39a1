//! Just enough of `multipart/form-data` (RFC 7578) to take a message with files.
//!
//! Source: API reference, "Uploading Files".

use axum::body::Bytes;

/// A file that was sent along. Its bytes are counted and let go.
#[derive(Debug, PartialEq, Eq)]
pub struct File {
    pub name: String,
    pub content_type: Option<String>,
    pub size: usize,
}

#[derive(Debug, Default)]
pub struct Form {
    pub payload_json: Option<Bytes>,
    pub files: Vec<File>,
}

/// The boundary of a form's content type.
pub fn boundary(content_type: &str) -> Option<String> {
    let parameters = content_type.strip_prefix("multipart/form-data")?;
    let value = parameters.split(';').find_map(|it| it.trim().strip_prefix("boundary="))?;
    Some(value.trim_matches('"').to_owned())
}

/// The parts of a form, or nothing when it is not one.
pub fn read(body: &Bytes, boundary: &str) -> Option<Form> {
    let first = format!("--{boundary}");
    let next = format!("\r\n--{boundary}");
    let mut form = Form::default();
    let mut at = find(body, first.as_bytes(), 0)? + first.len();
    while !body[at..].starts_with(b"--") {
        let head_end = find(body, b"\r\n\r\n", at)?;
        let head = std::str::from_utf8(&body[at..head_end]).ok()?;
        let start = head_end + 4;
        let end = find(body, next.as_bytes(), start)?;
        part(&mut form, head, body.slice(start..end));
        at = end + next.len();
    }
    Some(form)
}

fn part(form: &mut Form, head: &str, content: Bytes) {
    let header = |name: &str| {
        head.lines()
            .filter_map(|line| line.split_once(':'))
            .find_map(|(key, value)| key.trim().eq_ignore_ascii_case(name).then(|| value.trim().to_owned()))
    };
    let disposition = header("content-disposition").unwrap_or_default();
    let parameter = |name: &str| {
        let prefix = format!("{name}=");
        disposition.split(';').find_map(|it| it.trim().strip_prefix(&prefix).map(|it| it.trim_matches('"').to_owned()))
    };
    if let Some(name) = parameter("filename") {
        form.files.push(File { name, content_type: header("content-type"), size: content.len() });
    } else if parameter("name").as_deref() == Some("payload_json") {
        form.payload_json = Some(content);
    }
}

fn find(body: &[u8], wanted: &[u8], from: usize) -> Option<usize> {
    let rest = body.get(from..)?;
    rest.windows(wanted.len()).position(|window| window == wanted).map(|at| from + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_with_a_file() {
        let body = "--xyz\r\nContent-Disposition: form-data; name=\"payload_json\"\r\nContent-Type: application/json\r\n\
                    \r\n{\"content\":\"hi\"}\r\n--xyz\r\nContent-Disposition: form-data; name=\"files[0]\"; \
                    filename=\"a.txt\"\r\nContent-Type: text/plain\r\n\r\nhello\r\n\r\n--xyz--\r\n";
        let boundary = boundary("multipart/form-data; boundary=\"xyz\"").unwrap();
        let form = read(&Bytes::from(body), &boundary).unwrap();
        assert_eq!(form.payload_json.unwrap(), "{\"content\":\"hi\"}");
        let file = File { name: "a.txt".into(), content_type: Some("text/plain".into()), size: 7 };
        assert_eq!(form.files, [file]);
    }

    #[test]
    fn what_is_no_form_is_refused_without_panic() {
        for body in ["", "--xyz", "--xyz\r\n", "--xyz\r\nA: b\r\n\r\nno end", "nothing"] {
            assert!(read(&Bytes::from(body), "xyz").is_none(), "{body:?}");
        }
    }
}
