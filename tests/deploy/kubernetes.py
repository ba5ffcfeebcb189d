"""Validates the Kubernetes manifest against the schemas of several releases; unknown fields are refused."""
import pathlib, sys
import kubernetes_validate, yaml

MANIFEST = pathlib.Path(__file__).resolve().parent.parent.parent / "examples/deploy/kubernetes.yaml"
# The first with sidecar containers, the first where they are stable, a recent one.
RELEASES = ["1.29.0", "1.33.0", "1.37.0"]


def errors(text, release):
    found = []
    for resource in yaml.safe_load_all(text):
        try:
            kubernetes_validate.validate(resource, release, strict=True)
        except kubernetes_validate.ValidationError as error:
            found.append(f"{resource['kind']}: {'.'.join(map(str, error.path))}: {error.message[:200]}")
    return found


text = MANIFEST.read_text()
# Errors that must be found: an unknown field, one at the wrong place, a value of the wrong type.
wrong = [
    ("      terminationGracePeriodSeconds", "      terminationGraceSeconds"),
    ("          startupProbe:\n            httpGet", "          startProbe:\n            httpGet"),
    ("            runAsUser: 65532", "            restartPolicy: Always\n            runAsUser: 65532"),
    ("replicas: 3", 'replicas: "3"'),
    ("strategy: {type: Recreate}", "strategy: Recreate"),
]
for release in RELEASES:
    if found := errors(text, release):
        sys.exit(f"kubernetes {release}: {found}")
    for good, bad in wrong:
        assert text.count(good) == 1, good
        assert errors(text.replace(good, bad), release), f"kubernetes {release} takes {bad!r}"
    print(f"kubernetes: the manifest matches the schemas of {release}, and {len(wrong)} mistakes in it are found")
