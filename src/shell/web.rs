//! The read-only server for `--http-addr`: metrics, health and a status page.
//! Anyone who reaches the address can read it, so it takes no command and
//! shows no secret.
//!
//! | path | content |
//! |---|---|
//! | `/` | the status for a browser |
//! | `/status` | the status as text |
//! | `/status.json` | the status as `wove status -o json` prints it |
//! | `/metrics` | OpenMetrics text, see [`metrics`] |
//! | `/healthz` | 200 when frames are carried, else 503 |

use std::{fmt::Write, future::Future, io, net::SocketAddr, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;

use super::{
    api::{AskError, Handle},
    metrics,
    serve::{self, Limits},
    view::{self, Page},
};
use crate::engine::Status;

const LIMITS: Limits = Limits {
    connections: 64,
    lifetime: Duration::from_secs(45),
    body: 0,
};

/// The page loads nothing and runs nothing, whatever a nickname contains.
const CONTENT_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// Binds the address; port 0 picks a free one.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let what = format!(
            "--http-addr {address} cannot be bound: {error}; is it in use, or not this host's?"
        );
        io::Error::new(error.kind(), what)
    })
}

/// Answers readers until `until` resolves.
pub async fn serve(listener: TcpListener, handle: Handle, until: impl Future<Output = ()>) {
    let router = router(handle);
    serve::serve(listener, LIMITS, |_| router.clone(), until).await;
}

fn router(handle: Handle) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/status", get(text))
        .route("/status.json", get(json))
        .route("/metrics", get(scrape))
        .route("/healthz", get(health))
        .with_state(handle)
}

async fn page(State(handle): State<Handle>) -> Result<Response, AskError> {
    let status = handle.status().await?;
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, CONTENT_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, html(&status)).into_response())
}

async fn text(State(handle): State<Handle>) -> Result<Response, AskError> {
    let status = handle.status().await?;
    let mut out = view::summary_text(&status);
    for page in Page::TABLES {
        let table = view::table(&status, page);
        let _ = write!(out, "\n{}\n{table}", table.title);
    }
    Ok(([(header::X_CONTENT_TYPE_OPTIONS, "nosniff")], out).into_response())
}

async fn json(State(handle): State<Handle>) -> Result<Response, AskError> {
    Ok(Json(view::contract(&*handle.status().await?)).into_response())
}

async fn scrape(State(handle): State<Handle>) -> Result<Response, AskError> {
    let status = handle.status().await?;
    Ok((
        [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)],
        metrics::encode(*status),
    )
        .into_response())
}

async fn health(State(handle): State<Handle>) -> Result<Response, AskError> {
    let answer = match handle.status().await?.router.ready {
        true => (StatusCode::OK, "ready\n"),
        false => (
            StatusCode::SERVICE_UNAVAILABLE,
            "not ready: no frames are carried yet; see `wove status`\n",
        ),
    };
    Ok(answer.into_response())
}

const HEAD: &str = "<!doctype html><meta charset=utf-8><meta http-equiv=refresh content=10><title>wove</title><style>
body{font:14px/1.4 system-ui,sans-serif;margin:2em;color:#222;background:#fff}
table{border-collapse:collapse;margin:0 0 2em}
th,td{padding:.2em .8em .2em 0;text-align:left;vertical-align:top;border-bottom:1px solid #ddd;font-variant-numeric:tabular-nums}
h2{font-size:1.1em}li{color:#a00}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}th,td{border-color:#444}li{color:#f88}}
</style>";

fn html(status: &Status) -> String {
    let mut out = format!("{HEAD}<h1>wove: {}</h1>", escape(&status.router.nickname));
    out.push_str("<table>");
    for (label, value) in view::summary(status) {
        let _ = write!(out, "<tr><th>{label}<td>{}", escape(&value));
    }
    out.push_str("</table><ul>");
    for warning in &status.warnings {
        let _ = write!(out, "<li>{}", escape(warning));
    }
    out.push_str("</ul>");
    for page in Page::TABLES {
        let table = view::table(status, page);
        let _ = write!(out, "<h2>{}</h2><table><tr>", table.title);
        for name in table.header {
            let _ = write!(out, "<th>{name}");
        }
        for row in &table.rows {
            out.push_str("<tr>");
            for cell in row {
                let _ = write!(out, "<td>{}", escape(cell));
            }
        }
        out.push_str("</table>");
    }
    out
}

/// Text that HTML shows as it is; quotes matter only in attributes, where none is put.
fn escape(text: &str) -> String {
    view::printable(text)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use std::{future::pending, net::Ipv4Addr};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::shell::view::sample;

    async fn fetch(status: Status, request: &str) -> String {
        let (handle, queue) = Handle::channel();
        tokio::spawn(sample::answer_status(queue, status));
        let listener = bind((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, handle, pending()));
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn read_path(path: &str) -> String {
        fetch(
            sample::status(),
            &format!("GET {path} HTTP/1.1\r\nHost: wove\r\n\r\n"),
        )
        .await
    }

    #[tokio::test]
    async fn every_page_answers() {
        assert!(
            read_path("/status")
                .await
                .contains("2 (1 established, 1 retrying)")
        );
        assert!(read_path("/status.json").await.contains(r#""ipam":{}"#));
        assert!(
            read_path("/metrics")
                .await
                .contains("application/openmetrics-text")
        );
        assert!(read_path("/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(read_path("/nothing").await.starts_with("HTTP/1.1 404"));
    }

    #[tokio::test]
    async fn nothing_can_be_commanded() {
        let post = "POST /v1/command HTTP/1.1\r\nHost: wove\r\nContent-Length: 18\r\n\r\n{\"command\":\"stop\"}";
        assert!(
            fetch(sample::status(), post)
                .await
                .starts_with("HTTP/1.1 404")
        );
        let post = "POST /status HTTP/1.1\r\nHost: wove\r\nContent-Length: 0\r\n\r\n";
        assert!(
            fetch(sample::status(), post)
                .await
                .starts_with("HTTP/1.1 405")
        );
    }

    #[tokio::test]
    async fn a_peer_that_is_not_ready_is_not_healthy() {
        let mut status = sample::status();
        status.router.ready = false;
        assert!(
            fetch(status, "GET /healthz HTTP/1.1\r\nHost: wove\r\n\r\n")
                .await
                .starts_with("HTTP/1.1 503")
        );
    }

    #[test]
    fn a_hostile_nickname_is_text() {
        let mut status = sample::status();
        status.connections[0].nickname = "<script>alert(1)</script>\u{1b}[31m".into();
        let page = html(&status);
        assert!(page.contains("&lt;script&gt;"));
        assert!(!page.contains("<script") && !page.contains('\u{1b}'));
    }
}
