//! `check --connect`: whether the backend can be reached, one line a step.

use super::client::Client;
use super::settings::{Tuning, WorkerSettings};
use super::transport::Attempt;
use std::fmt::Display;

/// Looks the backend up, connects, and sends an OPTIONS, which asks nothing of an application. `say` gets a line for each
/// step. `false`: one has failed, and the others were left out.
pub fn probe(settings: &WorkerSettings, mut say: impl FnMut(&str)) -> bool {
    let result = Client::new(settings, &Tuning::default())
        .map_err(|error| format!("CALLBACK_URL: {error}"))
        .and_then(|client| steps(&client, settings, &mut say));
    result.inspect_err(|line| say(line)).is_ok()
}

/// Errors: the line of the step that has failed.
fn steps(client: &Client, settings: &WorkerSettings, say: &mut impl FnMut(&str)) -> Result<(), String> {
    let host = client.host();
    let backend = client.backend();
    if let Some(addresses) = backend.addresses(settings.timeout) {
        let addresses = addresses.map_err(|error| failed("name", client, &error, false))?;
        say(&format!("name: {host} is {}", joined(addresses.iter().map(|address| address.ip()))));
    }
    let (_, address) =
        backend.connect(settings.timeout).map_err(|error| failed("connection", client, &error, false))?;
    match (address, &settings.url.socket) {
        (Some(address), _) => say(&format!("connection: to {address}")),
        (None, path) => say(&format!("connection: to {}", path.as_deref().unwrap_or("".as_ref()).display())),
    }
    Attempt::begin(true, false);
    let answer = client.options();
    // The first byte of a request follows the handshake.
    let written = Attempt::current().written;
    Attempt::end();
    if settings.url.is_https() && written {
        say(&format!("TLS: the certificate is good for {host}"));
    }
    let step = if settings.url.is_https() && !written { "TLS" } else { "answer" };
    let answer = answer.map_err(|error| failed(step, client, &error, written))?;
    say(&format!("answer: {answer}"));
    Ok(())
}

fn failed(step: &str, client: &Client, error: &ureq::Error, written: bool) -> String {
    let (error, hint) = client.failures().explain(error, written);
    format!("{step}: failed: {error}; {hint}")
}

fn joined(items: impl Iterator<Item = impl Display>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}
