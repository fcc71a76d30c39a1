"""The parts of packaging/terraform/README.md that are said elsewhere: variables, outputs, exceptions and costs.

They stand between `<!-- NAME -->` and `<!-- /NAME -->`, and are written anew from what says them first.
"""

import re

import hcl

HOURS = 730
# `[reload] poll` and `secrets` as they are unless somebody changes them: ten seconds and five minutes.
HEADS = HOURS * 3600 / 10
SECRET_CALLS = HOURS * 3600 / 300
# A journal that is silent while nothing changes, and a page that few people use.
JOURNAL_GB = 0.1
CAPACITY_UNITS = 0.1
FREE_ALARMS = 10


def text(value):
    return value.strip('"').replace('\\"', '"').replace("|", "\\|")


def shape(value):
    """A type on one line."""
    return re.sub(r"\s*\n\s*", ", ", value.strip()).replace("({, ", "({ ").replace(", })", " })").replace("|", "\\|")


def variables(module):
    yield "| variable | type | default | |"
    yield "|---|---|---|---|"
    for block in hcl.read(module / "variables.tf"):
        given = block.arguments
        default = f"`{shape(given['default'])}`" if "default" in given else "required"
        kind = re.sub(r" +", " ", shape(given["type"]))
        yield f"| `{block.labels[0]}` | `{kind}` | {default} | {text(given['description'])} |"


def outputs(module):
    yield "| output | |"
    yield "|---|---|"
    for block in hcl.read(module / "outputs.tf"):
        if block.kind == "output":
            yield f"| `{block.labels[0]}` | {text(block.arguments['description'])} |"


def exceptions(module):
    yield "| check | at | why not |"
    yield "|---|---|---|"
    for file in sorted(module.glob("*.tf")):
        at = ""
        for line in file.read_text().split("\n"):
            if found := re.match(r'resource "(\w+)" "(\w+)"', line):
                at = f"{found[1]}.{found[2]}"
            if found := re.match(r"\s+# checkov:skip=(\w+): (.*)", line):
                yield f"| checkov {found[1]} | `{at}` | {found[2]} |"
    reason = ""
    for line in (module / ".trivyignore").read_text().splitlines():
        if line.startswith("# "):
            reason = line[2:]
        else:
            yield f"| trivy {line} | | {reason} |"


def prices(module):
    rows = (line.split("\t") for line in (module / "prices.tsv").read_text().splitlines() if not line.startswith("#"))
    return {name: float(price) for name, price, _, _ in rows}


def bill(module, example, variables):
    """What one example costs a month: (what, how much of it, dollars)."""
    price = prices(module)
    given = hcl.Reader(module / "examples" / example / f"{variables}.tfvars").body(hcl.Block("file", [], ""), "").arguments
    # A value inside of an object is read as it is written: `minimum = 2`.
    web = {name: value.strip('"') for name, value in re.findall(r"(\w+)\s*=\s*(\S+)", given.get("web", ""))}
    others = int(web.get("minimum", 0))
    hosts, kinds = 1 + others, 2 if others else 1
    bot = text(given["instance_type"])
    yield f"1 {bot}", HOURS * price[bot]
    if others:
        yield f"{others} {web['instance_type']}", others * HOURS * price[web["instance_type"]]
    yield f"{hosts * 8} GiB of gp3", hosts * 8 * price["gp3"]
    addresses = hosts + (2 if others else 0)
    yield f"{addresses} public IPv4 address{'es' if addresses > 1 else ''}", addresses * HOURS * price["public IPv4 address"]
    if others:
        capacity = CAPACITY_UNITS * price["load balancer capacity unit"]
        yield f"load balancer, {CAPACITY_UNITS} capacity units", HOURS * (price["load balancer"] + capacity)
    yield f"{kinds} secret{'s' if kinds > 1 else ''}", kinds * price["secret"]
    yield "asking for secrets every 5 minutes", hosts * SECRET_CALLS / 10_000 * price["10,000 secret calls"]
    yield "asking for the configuration every 10 seconds", hosts * HEADS / 1_000 * price["1,000 HEADs of the object"]
    if given.get("ship_journal") == "true":
        yield f"{JOURNAL_GB} GB of journal", JOURNAL_GB * price["shipped journal"]


def costs(module):
    yield "| | a month |"
    yield "|---|---:|"
    for example in ("one-host", "load-balanced"):
        for variables in ("dev", "prod"):
            lines = list(bill(module, example, variables))
            yield f"| **{example}, {variables}.tfvars** | **${sum(dollars for _, dollars in lines):.2f}** |"
            for what, dollars in lines:
                yield f"| {what} | {dollars:.2f} |"


SECTIONS = {"variables": variables, "outputs": outputs, "exceptions": exceptions, "costs": costs}


def written(module):
    """README.md as it should be."""
    page = (module / "README.md").read_text()
    for name, lines in SECTIONS.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, found, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise SystemExit(f"README.md has no part between {begin.strip()} and {end}")
        page = before + begin + "\n".join(lines(module)) + "\n" + end + after
    return page
