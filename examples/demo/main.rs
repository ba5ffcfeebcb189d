//! `make demo`: the gateway, a small backend and a web page that shows the traffic between them.
//!
//! The gateway is the real one, on the main thread, started as `ssegateway` starts it. The backend speaks plain HTTP
//! with it over loopback. It is the part that an application would write: `backend.py` where there is Python, else
//! `backend.rs`, which does the same.

mod backend;
mod http;

use backend::Backend;
use http::{Request, Response};
use ssegateway::config::Config;
use ssegateway::logger;
use ssegateway::reactor::mio::Listeners;
use ssegateway::serve;
use ssegateway::sys::{self, Signals};
use std::error::Error;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;

const PAGE: &str = include_str!("index.html");
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Ends with the demo.
struct Python(Child);

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

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
    // Before any thread starts, so that Ctrl-C reaches the gateway, which ends its streams and then this process.
    let signals = Signals::block()?;
    let public = listen(3000)?;
    let gateway_port = public.local_addr()?.port();
    let pages = listen(8080)?;
    pages.set_nonblocking(false)?;
    let page_port = pages.local_addr()?.port();

    let mut config = config(gateway_port, page_port)?;
    let limits = config.fit(sys::raise_descriptor_limit()?)?;
    logger::start(config.log_level, config.log_format)?;

    let python = if has_python() { Some(start_python(pages.try_clone()?, gateway_port)?) } else { None };
    if python.is_none() {
        let backend = Arc::new(Backend::new(gateway_port));
        backend.start_ticking();
        let page = PAGE.replace("{{GATEWAY}}", &gateway_port.to_string());
        http::serve(pages, move |request| answer(&page, &backend, &request));
    }

    println!("\n  Open  http://127.0.0.1:{page_port}/  in a browser. Ctrl-C ends the demo.\n");
    let finished = serve::run(config, &limits, Listeners { public, internal: None, internal_unix: None }, signals);
    log::logger().flush();
    drop(python); // it was needed for the last callbacks
    finished?;
    Ok(())
}

/// Whether there is a Python that the client runs on.
fn has_python() -> bool {
    let is_new = "import sys; sys.exit(sys.version_info < (3, 10))";
    let status = Command::new("python3").args(["-c", is_new]).stdin(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Its standard output is the listening socket, and its standard input ends with this process, even by SIGKILL.
fn start_python(pages: TcpListener, gateway_port: u16) -> io::Result<Python> {
    let child = Command::new("python3")
        .arg(format!("{ROOT}/examples/demo/backend.py"))
        .env("PYTHONPATH", format!("{ROOT}/python"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("GATEWAY_URL", format!("http://127.0.0.1:{gateway_port}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::from(OwnedFd::from(pages)))
        // Ctrl-C is for the gateway, which still has callbacks to make.
        .process_group(0)
        .spawn()?;
    Ok(Python(child))
}

/// The documented port if it is free, else any.
fn listen(port: u16) -> io::Result<TcpListener> {
    let backlog = 128;
    sys::listen((Ipv4Addr::LOCALHOST, port).into(), backlog)
        .or_else(|_| sys::listen((Ipv4Addr::LOCALHOST, 0).into(), backlog))
}

/// The environment of a gateway started by hand. Only the log level comes from the real environment.
fn config(gateway_port: u16, page_port: u16) -> Result<Config, String> {
    let lookup = |name: &str| match name {
        "CALLBACK_URL" => Some(format!("http://127.0.0.1:{page_port}/callback").into()),
        // The page is served on another port than the stream, so its origin differs.
        "CORS_ORIGINS" => Some(format!("http://127.0.0.1:{page_port},http://localhost:{page_port}").into()),
        "PORT" => Some(gateway_port.to_string().into()),
        "LOG_LEVEL" => std::env::var_os(name).or_else(|| Some("warn".into())),
        _ => None,
    };
    let (config, _warnings) = Config::from_env(lookup).map_err(|problems| problems[0].to_string())?;
    Ok(config)
}

fn answer(page: &str, backend: &Backend, request: &Request) -> Response {
    let path = request.path.split('?').next().unwrap_or_default();
    let text = match (request.method.as_str(), path) {
        ("GET", "/") => {
            return Response { status: 200, content_type: "text/html; charset=utf-8", body: page.as_bytes().to_vec() };
        }
        ("GET", "/backend") => include_str!("backend.rs").to_owned(),
        ("GET", document) if is_document(document) => match std::fs::read_to_string(format!("{ROOT}{document}")) {
            Ok(text) => text,
            Err(_) => return backend.answer(request),
        },
        _ => return backend.answer(request),
    };
    Response { status: 200, content_type: "text/plain; charset=utf-8", body: text.into_bytes() }
}

fn is_document(path: &str) -> bool {
    let name = path.strip_prefix("/docs/").and_then(|path| path.strip_suffix(".md"));
    path == "/README.md" || name.is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'))
}
