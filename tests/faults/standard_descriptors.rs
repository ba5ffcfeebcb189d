//! Closed standard descriptors without a `/dev/null` to replace them.

use crate::common::{Backend, Gateway, OK, assert_json};

/// In a mount namespace of its own.
const WITHOUT_DEV_NULL: &str =
    r#"exec unshare --map-root-user --mount sh -c 'mount -t tmpfs none /dev && exec "$0" <&- >&- 2>&-' "$0""#;

#[test]
fn without_dev_null_closed_standard_descriptors_do_no_harm() {
    let backend = Backend::accepting();
    let mut gateway = Gateway::for_backend(&backend).shell(WITHOUT_DEV_NULL).start();
    let root = format!("/proc/{}/root", gateway.pid());
    assert!(!std::path::Path::new(&root).join("dev/null").exists(), "the gateway sees /dev/null");
    let (mut stream, token) = gateway.open_with(&backend, "/x");
    assert_json(&gateway.event(&token, "x"), 200, OK);
    assert_eq!(stream.event(), "data: x\n\n");
    gateway.drain();
}
