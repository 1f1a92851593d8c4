"""Holds the manifests to the schemas of Kubernetes' API, those of the operator to what they name, and the
Compose file to the schema of Compose.

usage: manifests.py REPOSITORY FOLDER [SCHEMA]: what is wrong goes to standard output, and the policy of each
ConfigMap into FOLDER, for `schengate check`. SCHEMA is the one of Compose.
"""

import json
import pathlib
import sys

import jsonschema
import kubernetes_validate
import yaml

# The first release with native sidecars, and the newest whose schemas are here.
VERSIONS = ["1.29", kubernetes_validate.latest_version()]
OWN = "monitoring.coreos.com/v1"

root, policies = (pathlib.Path(argument) for argument in sys.argv[1:3])
documents = []
for file in sorted((root / "packaging/kubernetes").glob("*.yaml")):
    documents += [(file.name, document) for document in yaml.safe_load_all(file.read_text())]


def name(document):
    return f"{document['kind']} {document['metadata']['name']}"


def pods():
    for file, document in documents:
        if document["kind"] in ("Deployment", "DaemonSet"):
            yield file, name(document), document["spec"]["template"]


for file, document in documents:
    if document["apiVersion"] == OWN:
        continue
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as fault:
            print(f"{file}: {name(document)}: by {version}: {fault}")
    if document["kind"] == "ConfigMap":
        (policies / f"{document['metadata']['name']}.toml").write_text(document["data"]["policy.toml"])

# What one names, another is.
maps = {document["metadata"]["name"] for _, document in documents if document["kind"] == "ConfigMap"}
for file, pod, template in pods():
    spec = template["spec"]
    named = {volume["configMap"]["name"] for volume in spec["volumes"] if "configMap" in volume}
    if not named or named - maps:
        print(f"{file}: {pod}: no ConfigMap {named - maps}")
    # The schema knows no words: the rules come first, and a gateway among these goes on running.
    first = [(init["name"], init.get("restartPolicy")) for init in spec.get("initContainers", [])]
    if first not in ([], [("capture", None)], [("capture", None), ("schengate", "Always")]):
        print(f"{file}: {pod}: begins with {first}")
    for container in spec.get("initContainers", []) + spec["containers"]:
        ports = {port["name"] for port in container.get("ports", [])}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = container.get(probe, {}).get("httpGet", {}).get("port")
            if asked is not None and asked not in ports:
                print(f"{file}: {pod}: {probe} asks port {asked}")
        security = container["securityContext"]
        is_gateway = container["name"] == "schengate"
        if is_gateway and "NET_ADMIN" in security["capabilities"].get("add", []):
            print(f"{file}: {pod}: the gateway may change the rules")

[monitor] = [document for _, document in documents if document["kind"] == "ServiceMonitor"]
wanted = monitor["spec"]["selector"]["matchLabels"].items()
services = [document for _, document in documents if document["kind"] == "Service"]
found = [service for service in services if wanted <= service["metadata"]["labels"].items()]
ports = {port["name"] for service in found for port in service["spec"]["ports"]}
if not {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= ports:
    print(f"the ServiceMonitor finds {ports}")
for service in services:
    labels = [template["metadata"]["labels"].items() for _, _, template in pods()]
    if not any(service["spec"]["selector"].items() <= own for own in labels):
        print(f"{name(service)}: no pod")

[rules] = [document for _, document in documents if document["kind"] == "PrometheusRule"]
sources = [root / "config/prometheus" / file for file in ("alerts.yml", "recording.yml")]
groups = [group for source in sources for group in yaml.safe_load(source.read_text())["groups"]]
if rules["spec"]["groups"] != groups:
    print("the groups of the PrometheusRule are not those of config/prometheus")

compose = yaml.safe_load((root / "packaging/compose.yaml").read_text())
for schema in sys.argv[3:]:
    schema = json.loads(pathlib.Path(schema).read_text())
    checker = jsonschema.Draft201909Validator(schema)
    for fault in checker.iter_errors(compose):
        print(f"compose.yaml: {fault.json_path}: {fault.message}")
    # That it refuses anything at all.
    if checker.is_valid(compose | {"servicez": {}}):
        print("the schema of Compose refuses nothing")
# The schema knows no words: what matters is looked for.
services = compose["services"]
for service, has in services.items():
    added = has.get("cap_add", [])
    if has["cap_drop"] != ["ALL"] or added != (["NET_ADMIN"] if service == "capture" else []):
        print(f"compose.yaml: {service}: capabilities")
    shares = has.get("network_mode") == "service:schengate"
    if shares == (service == "schengate"):
        print(f"compose.yaml: {service}: another network")
if services["application"]["depends_on"]["capture"]["condition"] != "service_completed_successfully":
    print("compose.yaml: the application does not wait for the rules")
print(f"{len(documents)} documents", file=sys.stderr)
