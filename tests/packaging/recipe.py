#!/usr/bin/env python3
"""The recipe for machine images, held against what Packer and its Amazon plugin take, each block, argument and type of it.

    recipe.py check DIRECTORY            one line for each fault; nothing where there is none
    recipe.py extract PLUGIN PACKER      writes recipe.json, from clones of hashicorp/packer-plugin-amazon and hashicorp/packer

Debian's Packer is 1.6, which has a builder of its own and knows nothing of what has come since. recipe.json has the names and
types that both the oldest plugin the recipe takes and the newest have, and likewise for Packer's own provisioners.
"""

import json
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "terraform"))
import hcl

NAMES = HERE / "recipe.json"
# The oldest are those that packaging/ami/plugins.pkr.hcl names.
PLUGIN = ["1.2.8", "1.8.2"]
PACKER = ["1.7.0", "1.16.0"]

# Packer's own blocks: hashicorp/packer, hcl2template (types.build.go, types.build.provisioners.go, types.variables.go).
BUILD = {"name": "string", "description": "string", "sources": "list(string)"}
PROVISIONER = {
    "name": "string", "pause_before": "string", "max_retries": "number", "timeout": "string", "only": "list(string)",
    "except": "list(string)",
}
VARIABLE = {"type": "type", "default": None, "description": "string", "sensitive": "bool"}
VALIDATION = {"condition": None, "error_message": "string"}

# What a name alone does not say, and Packer 1.6 does not either: the plugin's builder/common, run_config.go and ami_config.go.
VALUES = {
    "imds_support": {"v2.0"},
    "metadata_options.http_endpoint": {"enabled", "disabled"},
    "metadata_options.http_tokens": {"optional", "required"},
    "metadata_options.http_put_response_hop_limit": {str(limit) for limit in range(1, 65)},
}


def type_of(text, variables):
    """An expression's type where it shows; else nothing."""
    if re.fullmatch(r'"(?:[^"\\]|\\.)*"', text):
        return "string"
    if re.fullmatch(r"\d+", text):
        return "number"
    if text in ("true", "false"):
        return "bool"
    if text.startswith("["):
        parts = {type_of(part.strip(), variables) for part in text[1:-1].split(",") if part.strip()}
        return f"list({parts.pop()})" if len(parts) == 1 else None
    if text.startswith("{"):
        return "map(string)"
    found = re.fullmatch(r"var\.(\w+)", text)
    return variables.get(found[1]) if found else None


def body_faults(block, known, variables, path):
    for name, text in block.arguments.items():
        if name not in known or isinstance(known[name], dict):
            yield f"{block.where}: {path} has no argument {name}"
            continue
        found = type_of(text, variables)
        if known[name] is not None and found is not None and found != known[name]:
            yield f"{block.where}: {path}.{name} is a {known[name]}, and this is a {found}"
        allowed = VALUES.get(f"{path}.{name}".split(".", 1)[1])
        if allowed and text.strip('"') not in allowed:
            yield f"{block.where}: {path}.{name} can't be {text}"
    for inner in block.blocks:
        if isinstance(known.get(inner.kind), dict):
            yield from body_faults(inner, known[inner.kind], variables, f"{path}.{inner.kind}")
        else:
            yield f"{inner.where}: {path} has no block {inner.kind}"


def faults(blocks):
    """What Packer and the plugin would not understand, a line each."""
    known = json.loads(NAMES.read_text())
    variables = {block.labels[0]: block.arguments.get("type") for block in blocks if block.kind == "variable"}
    sources = {".".join(block.labels) for block in blocks if block.kind == "source"}
    if not any(block.all("required_plugins") for block in blocks if block.kind == "packer"):
        yield "nowhere is the plugin asked for"
    for block in blocks:
        match block.kind:
            case "packer":
                yield from required_faults(block)
            case "variable":
                yield from body_faults(block, {**VARIABLE, "validation": VALIDATION}, variables, "variable")
            case "locals":
                pass
            case "source":
                builder = block.labels[0]
                if builder in known["builders"]:
                    yield from body_faults(block, known["builders"][builder], variables, builder)
                else:
                    yield f"{block.where}: the plugin has no builder {builder}"
            case "build":
                yield from body_faults(hcl.Block("build", [], block.where, block.arguments), BUILD, variables, "build")
                for name in re.findall(r'"source\.([^"]+)"', block.arguments.get("sources", "")):
                    if name not in sources:
                        yield f"{block.where}: there is no source {name}"
                yield from provisioner_faults(block, known, variables, sources)
            case kind:
                yield f"{block.where}: Packer has no block {kind}"


def provisioner_faults(build, known, variables, sources):
    for block in build.blocks:
        if block.kind != "provisioner" or block.labels[0] not in known["provisioners"]:
            yield f"{block.where}: {block.kind} {' '.join(block.labels)} is not known here"
            continue
        yield from body_faults(block, {**PROVISIONER, **known["provisioners"][block.labels[0]]}, variables, block.labels[0])
        for name in re.findall(r'"([^"]+)"', block.arguments.get("only", "")):
            if name not in sources:
                yield f"{block.where}: there is no source {name}"


def required_faults(block):
    """Whether it asks for the versions that recipe.json begins with."""
    if block.arguments.get("required_version") != f'">= {PACKER[0]}"':
        yield f"{block.where}: required_version is not >= {PACKER[0]}"
    for plugins in block.all("required_plugins"):
        # The name has to be the one that the builders' begin with, the source a host, a namespace and what follows "packer-plugin-".
        asked = dict(re.findall(r'(\w+)\s*=\s*"([^"]*)"', plugins.arguments.get("amazon", "")))
        if asked != {"source": "github.com/hashicorp/amazon", "version": f">= {PLUGIN[0]}"}:
            yield f"{plugins.where}: the plugin amazon is not github.com/hashicorp/amazon >= {PLUGIN[0]}"
        yield from (f"{plugins.where}: no plugin {name} is known here" for name in plugins.arguments if name != "amazon")


def specification(clone, tag, file, struct="FlatConfig"):
    """The names and types that a generated specification has; of a block also its own."""
    shown = subprocess.run(["git", "-C", clone, "show", f"{tag}:{file}"], capture_output=True, text=True, check=False)
    body = re.search(rf"func \(\*{struct}\) HCL2Spec\(\).*?\n}}\n", shown.stdout, re.DOTALL)
    if body is None:
        sys.exit(f"{file} of {tag} has no {struct}")
    names = {}
    for name, kind in re.findall(r'^\t\t"(\w+)":\s*&hcldec\.AttrSpec\{.*?Type: (.*?), Required', body[0], re.MULTILINE):
        names[name] = kind.replace("cty.", "").lower()
    nested = r'^\t\t"(\w+)":\s*&hcldec\.Block(?:List)?Spec\{.*?\(\*(\w+)\.(\w+)\)'
    for name, package, inner in re.findall(nested, body[0], re.MULTILINE):
        if package == "common":
            folder = "builder/common"
            files = subprocess.run(
                ["git", "-C", clone, "grep", "-l", f"func (\\*{inner}) HCL2Spec", tag, "--", folder],
                capture_output=True, text=True, check=True).stdout.split()
            names[name] = specification(clone, tag, files[0].split(":", 1)[1], inner)
    # What Packer itself tells a component.
    return {name: kind for name, kind in names.items() if not name.startswith("packer_")}


def both(old, new):
    """What is in both and the same."""
    common = {}
    for name in sorted(old.keys() & new.keys()):
        if isinstance(old[name], dict) and isinstance(new[name], dict):
            common[name] = both(old[name], new[name])
        elif old[name] == new[name]:
            common[name] = new[name]
    return common


def extract(plugin, packer):
    def common(clone, versions, file):
        return both(*(specification(clone, f"v{version}", file) for version in versions))

    names = {
        "source": f"hashicorp/packer-plugin-amazon {' and '.join(PLUGIN)}, hashicorp/packer {' and '.join(PACKER)}: *.hcl2spec.go",
        "builders": {"amazon-ebs": common(plugin, PLUGIN, "builder/ebs/builder.hcl2spec.go")},
        "provisioners": {
            name: common(packer, PACKER, f"provisioner/{name}/provisioner.hcl2spec.go") for name in ("file", "shell")
        },
    }
    NAMES.write_text(json.dumps(names, indent=1) + "\n")


if sys.argv[1] == "extract":
    extract(*sys.argv[2:])
else:
    print("\n".join(faults(hcl.read(*sorted(pathlib.Path(sys.argv[2]).glob("*.pkr.hcl"))))), end="")
