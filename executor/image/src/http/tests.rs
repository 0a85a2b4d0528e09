//! Challenges, texts of strangers, and registries that drip.

use super::*;
use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    time::Instant,
};

/// Where the first challenge of an answer leads, for a registry with this name.
fn url_of(challenge: &str, registry: (&str, bool)) -> Result<String, HttpError> {
    let challenges = http_auth::parse_challenges(challenge).map_err(|_| HttpError::NoToken)?;
    let giver = TokenGiver::new(&challenges[0], Some("library/nginx"), registry)?;
    Ok(giver.url().to_string())
}

#[test]
fn a_challenge_says_where_tokens_are_given() {
    let challenge = r#"Bearer realm="https://auth.example/token",service="registry.example""#;
    let expected = "https://auth.example/token?scope=repository%3Alibrary%2Fnginx%3Apull&service=registry.example";
    let url = url_of(challenge, ("registry.example", false)).expect("a url");
    assert_eq!(url, expected);
}

#[test]
fn a_token_is_not_fetched_in_the_clear_nor_from_this_host() {
    let challenge = r#"Bearer realm="http://auth.example/token""#;
    assert!(matches!(
        url_of(challenge, ("registry.example", false)),
        Err(HttpError::PlainToken)
    ));
    assert!(url_of(challenge, ("registry.example", true)).is_ok());
    for other in [
        r#"Bearer realm="file:///etc/shadow""#,
        r#"Bearer realm="x""#,
        "Bearer",
        "\u{7f}",
    ] {
        assert!(
            url_of(other, ("registry.example", true)).is_err(),
            "{other}"
        );
    }
    for here in ["127.0.0.1:5001", "[::1]", "169.254.169.254", "0.0.0.0"] {
        let challenge = format!("Bearer realm=\"http://{here}/token\"");
        let refused = url_of(&challenge, ("registry.example", true));
        assert!(
            matches!(refused, Err(HttpError::TokenFromHere(_))),
            "{here}"
        );
        assert!(url_of(&challenge, ("localhost:5000", true)).is_ok());
    }
}

#[test]
fn what_a_registry_says_is_shown_without_what_moves_a_cursor_and_not_whole() {
    assert_eq!(shown("a\u{1b}[2Jb\nc"), "a [2Jb c");
    assert_eq!(shown(&"x".repeat(1_000)).chars().count(), MAX_SHOWN + 1);
}

#[test]
fn what_a_registry_answers_is_quoted_after_a_colon_or_not_at_all() {
    let status = StatusCode::INTERNAL_SERVER_ERROR;
    let said = |body: &[u8]| refusal(status, body).to_string();
    assert_eq!(said(b"oops"), "it answers 500 Internal Server Error");
    let body = br#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#;
    let expected = "it answers 500 Internal Server Error: TOOMANYREQUESTS: slow down";
    assert_eq!(said(body), expected);
}

/// Reads a request and begins to answer it: `start`, and then a byte every few milliseconds for as
/// long as somebody reads them.
fn drip(mut stream: TcpStream, start: &str) -> std::io::Result<()> {
    for line in BufReader::new(stream.try_clone()?).lines() {
        if line?.is_empty() {
            break;
        }
    }
    stream.write_all(start.as_bytes())?;
    loop {
        stream.write_all(b"x")?;
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Asks a registry that drips after `start` for a blob. Without a limit that would take an hour.
async fn ask_one_that_drips(start: &'static str) -> HttpError {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || drip(stream, start));
        }
    });
    let endpoint = Endpoint {
        host: format!("127.0.0.1:{port}"),
        repository: "x".to_owned(),
        plain: true,
        proxy: Some(Proxy::None),
    };
    let mut http = Http::new(&endpoint, &Credentials::default()).expect("a client");
    http.head_time = Duration::from_millis(300);
    let begun = Instant::now();
    let error = http
        .get("blobs/x", "*/*", 0)
        .await
        .expect_err("it is refused");
    assert!(begun.elapsed() < Duration::from_secs(10));
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_head_that_drips_is_given_up() {
    let error = ask_one_that_drips("HTTP/1.1 200 OK\r\nX-Long: ").await;
    assert!(matches!(error, HttpError::LateHead(_)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_error_that_drips_is_given_up() {
    let start = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 60000\r\n\r\n";
    let error = ask_one_that_drips(start).await;
    assert!(matches!(error, HttpError::LateHead(_)), "{error:?}");
}
