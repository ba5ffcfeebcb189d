//! `make demo`: the gateway, a small backend and a web page that shows what passes between them.
//!
//! The gateway is the real one, run by this process as `ssegateway` would; the backend speaks plain HTTP with it
//! over loopback. `backend.rs` is the part that an application would write.

mod backend;
mod http;

use backend::Backend;
use http::{Request, Response};
use std::error::Error;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

const PAGE: &str = include_str!("index.html");

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let listener = listen(8080)?;
    let page_port = listener.local_addr()?.port();
    let gateway_port = listen(3000)?.local_addr()?.port();

    let backend = Arc::new(Backend::new(gateway_port));
    let page = PAGE.replace("{{GATEWAY_PORT}}", &gateway_port.to_string());
    let behind_page = Arc::clone(&backend);
    http::serve(listener, move |request| answer(&page, &behind_page, &request));

    // Beside this example's own executable, where cargo puts it.
    let binary = std::env::current_exe()?.parent().and_then(|examples| examples.parent()).map(|d| d.join("ssegateway"));
    let binary =
        binary.filter(|path| path.exists()).ok_or("the gateway is not built yet; start this with: make demo")?;
    let mut gateway = Command::new(binary)
        .env_clear()
        .env("LISTEN_ADDRESS", "127.0.0.1")
        .env("PORT", gateway_port.to_string())
        .env("CALLBACK_URL", format!("http://127.0.0.1:{page_port}/callback"))
        .env("CORS_ORIGINS", format!("http://127.0.0.1:{page_port},http://localhost:{page_port}"))
        .env("LOG_LEVEL", std::env::var("LOG_LEVEL").unwrap_or_else(|_| "warn".into()))
        .stdin(Stdio::null())
        .spawn()?;
    let started = Instant::now();
    while TcpStream::connect((Ipv4Addr::LOCALHOST, gateway_port)).is_err() {
        if let Some(status) = gateway.try_wait()? {
            return Err(format!("the gateway ended: {status}").into());
        }
        if started.elapsed() > Duration::from_secs(10) {
            gateway.kill()?;
            return Err("the gateway did not start".into());
        }
        thread::sleep(Duration::from_millis(10));
    }
    backend.start_ticking();
    println!("\n  Open  http://127.0.0.1:{page_port}/  in a browser. Ctrl-C ends the demo.\n");
    gateway.wait()?;
    Ok(())
}

/// The port a reader expects if it is free, else any.
fn listen(port: u16) -> std::io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
}

fn answer(page: &str, backend: &Backend, request: &Request) -> Response {
    match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/") => {
            Response { status: 200, content_type: "text/html; charset=utf-8", body: page.as_bytes().to_vec() }
        }
        _ => backend.answer(request),
    }
}
