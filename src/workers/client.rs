//! One callback over HTTP: the request, the one retry, the outcome.

use super::dial::Backend;
use super::failures::{Failures, is_disconnect};
use super::idle::Idle;
use super::late::{LateAnswer, LateAnswers};
use super::resolver::Resolver;
use super::settings::{Tuning, WorkerSettings};
use super::socket::HEAD_BYTES_MAX;
use super::tls::Tls;
use super::transport::{Attempt, PooledConnector};
use crate::callback::{Call, CallKind, Outcome, PassedHeader};
use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};
use ureq::http::header::{
    ALLOW, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use ureq::http::{Response, Uri};
use ureq::{Agent, Body, Error};

/// The longest body of a 2xx answer; a longer one is ignored.
const BODY_BYTES_MAX: u64 = 1024 * 1024;
/// Longest body of a rejection that is passed on; a longer one is replaced.
const REJECTION_BYTES_MAX: u64 = 64 * 1024;
/// The most of an error's body that is read to keep its connection; opening another is cheaper than reading more.
const DRAIN_BYTES_MAX: u64 = 64 * 1024;
/// The longest wait for an error's body, which occupies only the worker.
const DRAIN_TIME_MAX: Duration = Duration::from_millis(100);
/// Enough for a usual request; a larger one is written in pieces.
const OUTPUT_BUFFER_BYTES: usize = 4 * 1024;
/// Upper bound of a request's head without the URL and the credentials.
const HEAD_BYTES: usize = 1024;

/// Makes callbacks to one URL. Shared by all workers; a call runs on its caller's thread.
pub(super) struct Client {
    agent: Agent,
    uri: Uri,
    backend: Arc<Backend>,
    failures: Failures,
    authorization: Option<HeaderValue>,
    instance: HeaderValue,
    timeout: Duration,
    pass_rejections: bool,
    idle: Arc<Idle>,
    late: LateAnswers,
}

impl Client {
    /// Errors: a URL or header value that HTTP does not allow, `https` in a build without TLS (which the configuration
    /// refuses earlier), and an extra root that is not a certificate.
    pub(super) fn new(settings: &WorkerSettings, tuning: &Tuning) -> io::Result<Self> {
        let WorkerSettings {
            url,
            authorization,
            instance,
            timeout,
            extra_roots,
            pass_rejections,
            threads_max: _,
            late_max,
        } = settings;
        let uri: Uri = url.url.parse().map_err(io::Error::other)?;
        let host = uri.host().ok_or_else(|| io::Error::other("the URL has no host"))?;
        let port = uri.port_u16().unwrap_or(if url.is_https() { 443 } else { 80 });
        let tls = if url.is_https() { Some(Tls::new(extra_roots)?) } else { None };
        let backend = Arc::new(match &url.socket {
            Some(path) => Backend::Socket(path.clone()),
            None => Backend::Host(Resolver::new(host, port, Arc::clone(&tuning.lookup), tuning.lookup_intervals)),
        });
        let idle = Arc::new(Idle::new(tuning.connection_age_max));
        let config = Agent::config_builder()
            .timeout_global(Some(*timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // The default reads HTTP_PROXY and the like.
            .proxy(None)
            // `transport` keeps connections alive itself.
            .max_idle_connections(0)
            .max_idle_connections_per_host(0)
            .max_response_header_size(HEAD_BYTES_MAX)
            // ureq writes each line of the head in one piece or fails.
            .output_buffer_size(
                OUTPUT_BUFFER_BYTES.max(HEAD_BYTES + url.url.len() + authorization.as_ref().map_or(0, String::len)),
            )
            .user_agent(concat!("ssegateway/", env!("CARGO_PKG_VERSION")))
            .build();
        let connector = PooledConnector::new(Arc::clone(&idle), Arc::clone(&backend), tls);
        let agent = Agent::with_parts(config, connector, NoResolver);
        let authorization = authorization
            .as_ref()
            .map(|value| {
                let mut value = HeaderValue::from_str(value).map_err(io::Error::other)?;
                value.set_sensitive(true);
                Ok::<_, io::Error>(value)
            })
            .transpose()?;
        let instance = HeaderValue::from_str(instance).map_err(io::Error::other)?;
        let failures = Failures::new(url, host);
        let late = LateAnswers::new(*late_max, tuning.late_time_max);
        Ok(Self {
            agent,
            uri,
            backend,
            failures,
            authorization,
            instance,
            timeout: *timeout,
            pass_rejections: *pass_rejections,
            idle,
            late,
        })
    }

    /// Makes `call`. The outcome may be known before the end of the answer; the rest is then read after the outcome has
    /// been passed on.
    pub(super) fn run(&self, call: &Call) -> (Outcome, Option<Rest>) {
        let start = Instant::now();
        let keep_failed = call.kind == CallKind::Connect && self.late.is_possible();
        Attempt::begin(false, keep_failed);
        let first = self.send(call, None);
        let attempt = Attempt::current();
        let (result, written_before) = match first {
            first if attempt.reused && was_closed(&first, attempt) => {
                // A 408 means that the request was not read.
                let in_doubt = attempt.written && attempt.first_status != Some(*b"408");
                drop(first);
                self.idle.close_all();
                Attempt::begin(true, keep_failed);
                let left = self.timeout.saturating_sub(start.elapsed());
                (self.send(call, Some(left)), in_doubt)
            }
            first => (first, false),
        };
        let failed_connection = Attempt::end();
        match result {
            Ok(response) => {
                self.failures.answered(call, response.status().as_u16());
                answered(response, written_before, self.pass_rejections && call.kind == CallKind::Connect)
            }
            Err(error) => {
                let written = written_before || Attempt::current().written;
                let outcome = self.failures.failed(call, &error, written);
                let is_late = outcome == Outcome::TimedOut { written: true };
                let connection = failed_connection.filter(|_| is_late && Attempt::current().written);
                match connection.and_then(|connection| self.late.admit(connection, written_before)) {
                    Some(late) => (Outcome::Overdue, Some(Rest::Late(late))),
                    None => (outcome, None),
                }
            }
        }
    }

    /// Closes connections that have been idle for too long, and logs failures that have waited too long for their line.
    pub(super) fn tidy(&self, now: Instant) {
        self.idle.close_old(now);
        self.failures.log_overdue();
    }

    pub(super) fn host(&self) -> &str {
        self.uri.host().unwrap_or_default()
    }

    pub(super) fn backend(&self) -> &Backend {
        &self.backend
    }

    pub(super) fn failures(&self) -> &Failures {
        &self.failures
    }

    /// The status of the answer to an OPTIONS, and the methods it names.
    pub(super) fn options(&self) -> Result<String, Error> {
        let mut request = self.agent.options(&self.uri);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let response = request.call()?;
        let allow = response.headers().get(ALLOW).and_then(|value| value.to_str().ok());
        let allow = allow.map_or(String::new(), |methods| format!("; Allow: {methods}"));
        Ok(format!("{} to an OPTIONS{allow}", response.status()))
    }

    #[cfg(test)]
    pub(super) fn idle_connections(&self) -> usize {
        self.idle.count()
    }

    fn send(&self, call: &Call, timeout: Option<Duration>) -> Result<Response<Body>, Error> {
        let mut request = self.agent.post(&self.uri).header(CONTENT_TYPE, "application/json");
        request = request.header("ssegateway-instance", &self.instance);
        if let CallKind::Disconnect { reason: _, detail: Some(detail) } = call.kind {
            request = request.header("ssegateway-detail", detail.as_str());
        }
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if let Some(timeout) = timeout {
            request = request.config().timeout_global(Some(timeout)).build();
        }
        let mut body = Vec::with_capacity(call.body_bytes());
        call.write_body(&mut body);
        let response = request.send(body.as_slice())?;
        if response.status().is_informational() {
            // Only 101 gets here, and the request offered no upgrade.
            return Err(Error::Io(io::Error::other("unexpected 101 answer")));
        }
        Ok(response)
    }
}

/// The part left to read once the outcome is known.
pub(super) enum Rest {
    /// The body of an answer.
    Body(Body),
    /// The answer, after [`Outcome::Overdue`].
    Late(LateAnswer),
}

impl Rest {
    /// Reads it. The outcome that follows the first one, if one does.
    pub(super) fn read(self) -> Option<Outcome> {
        match self {
            Self::Body(body) => {
                // So that the connection can be reused.
                Attempt::read_until(Instant::now() + DRAIN_TIME_MAX);
                let _ = read_body(body, DRAIN_BYTES_MAX);
                None
            }
            Self::Late(late) => Some(late.read()),
        }
    }
}

/// `pass_rejection`: the body of a rejection is passed on.
fn answered(response: Response<Body>, in_doubt: bool, pass_rejection: bool) -> (Outcome, Option<Rest>) {
    let status = response.status();
    if status.is_success() {
        let body = read_body(response.into_body(), BODY_BYTES_MAX);
        return (Outcome::Answered { status: status.as_u16(), passed: Vec::new(), body, in_doubt }, None);
    }
    let mut passed = passed_headers(response.headers());
    // Nobody asked for a content coding, and its name is not passed on.
    let is_coded = |value: &HeaderValue| !value.as_bytes().eq_ignore_ascii_case(b"identity");
    if pass_rejection && !response.headers().get_all(CONTENT_ENCODING).iter().any(is_coded) {
        if let Some(value) = response.headers().get(CONTENT_TYPE) {
            passed.push((PassedHeader::ContentType, value.as_bytes().to_vec()));
        }
        let body = read_body(response.into_body(), REJECTION_BYTES_MAX);
        return (Outcome::Answered { status: status.as_u16(), passed, body, in_doubt }, None);
    }
    let outcome = Outcome::Answered { status: status.as_u16(), passed, body: None, in_doubt };
    (outcome, Some(Rest::Body(response.into_body())))
}

/// The whole body, if it arrives in time and is no longer than `bytes_max`.
fn read_body(body: Body, bytes_max: u64) -> Option<Vec<u8>> {
    let declared = body.content_length().unwrap_or(0);
    if declared > bytes_max {
        return None;
    }
    let mut bytes = Vec::with_capacity(usize::try_from(declared).unwrap_or(0));
    let read = body.into_reader().take(bytes_max + 1).read_to_end(&mut bytes);
    let complete = read.is_ok() && u64::try_from(bytes.len()).is_ok_and(|length| length <= bytes_max);
    complete.then_some(bytes)
}

fn passed_headers(headers: &HeaderMap) -> Vec<(PassedHeader, Vec<u8>)> {
    let retry_after = headers.get(RETRY_AFTER).map(|value| (PassedHeader::RetryAfter, value));
    let authenticate = headers.get_all(WWW_AUTHENTICATE).iter().map(|value| (PassedHeader::WwwAuthenticate, value));
    retry_after.into_iter().chain(authenticate).map(|(name, value)| (name, value.as_bytes().to_vec())).collect()
}

/// Whether the peer had abandoned a kept-alive connection before it read the request: it closed it without an answer,
/// or with the 408 that some servers send when their idle timer ends.
fn was_closed(result: &Result<Response<Body>, Error>, attempt: Attempt) -> bool {
    let closed = attempt.answer_bytes == 0 && result.as_ref().is_err_and(is_disconnect);
    closed || attempt.first_status == Some(*b"408")
}

/// ureq resolves the name before every call, even on a kept-alive connection. Here the connector resolves it, for new
/// ones only.
#[derive(Debug)]
struct NoResolver;

impl ureq::unversioned::resolver::Resolver for NoResolver {
    fn resolve(
        &self,
        _uri: &Uri,
        _config: &ureq::config::Config,
        _timeout: ureq::unversioned::transport::NextTimeout,
    ) -> Result<ureq::unversioned::resolver::ResolvedSocketAddrs, Error> {
        Ok(self.empty())
    }
}
