// The connection of the bot, and the buttons that break it.

const element = (id) => document.getElementById(id);
const ACTIVITY_KEPT = 12;

const BREAKERS = [
  ["Gateway", [
    ["Reconnect", "Op 7: Discord asks the bot to come back", { fault: "reconnect" }],
    ["Invalid session", "Op 9: the session is gone, the bot must identify anew", { fault: "invalid_session", resumable: false }],
    ["Cut", "The connection ends without a word", { fault: "cut" }],
    ["No heartbeat ack", "Heartbeats go unanswered until cleared", { fault: "no_ack" }],
    ["Outage", "The gateway is gone until cleared", { fault: "gateway_off" }],
    ["Refuse token", "Close code 4004: the bot should stop and say what to mend", { fault: "close", code: 4004, reason: "Authentication failed." }],
    ["Refuse intents", "Close code 4014: likewise", { fault: "close", code: 4014, reason: "Disallowed intent(s)." }],
  ]],
  ["REST", [
    ["429", "The next message is rate limited for 3 seconds", { fault: "rest", route: "POST /channels/", status: 429, retry_after: 3, times: 1 }],
    ["502", "The next two requests fail", { fault: "rest", status: 502, times: 2 }],
    ["Slow", "Every request takes 2 seconds until cleared", { fault: "rest_delay", ms: 2000 }],
    ["Cut answer", "The next answer ends in its middle", { fault: "rest_cut", times: 1 }],
  ]],
];

export class Panel {
  constructor(call) {
    this.call = call;
    element("breakers").append(...BREAKERS.map(([name, buttons]) => this.group(name, buttons)));
  }

  group(name, buttons) {
    const box = document.createElement("div");
    box.className = "breakers";
    const heading = document.createElement("h3");
    heading.textContent = name;
    box.append(heading, ...buttons.map(([label, what, fault]) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = label;
      button.title = what;
      button.addEventListener("click", () => this.call("POST", "/sim/faults", fault));
      return button;
    }));
    return box;
  }

  update({ connections, sessions, counters, starts, faults }) {
    const ready = connections.find((connection) => connection.phase === "ready");
    const waiting = sessions.some((session) => session.connection === null);
    const word = ready ? "Connected" : connections.length ? "Connecting" : waiting ? "Away, can resume" : "Not connected";
    this.state(word, ready ? "good" : connections.length || waiting ? "fair" : "bad");
    const latency = ready?.latency_ms;
    const numbers = [
      ["State", word],
      ["Latency", latency === undefined || latency === null ? "–" : `${latency < 10 ? latency.toFixed(1) : Math.round(latency)} ms`],
      ["IDENTIFYs", `${counters.identifies}`, `${starts.remaining} of ${starts.total} left today`],
      ["RESUMEs", `${counters.resumed}`, counters.replayed ? `${counters.replayed} replayed` : ""],
      ["Heartbeats", `${counters.heartbeats}`],
      ["Messages", `${counters.messages_created}`, counters.nonce_deduplicated ? `${counters.nonce_deduplicated} sent twice` : ""],
      ["Rate limited", `${counters.rate_limited}`],
      ["Violations", `${counters.violation_count}`],
    ];
    element("numbers").replaceChildren(...numbers.map(([name, value, more]) => row(name, value, more)));
    this.faults(faults);
  }

  lost() {
    this.state("Simulator stopped", "bad");
  }

  state(word, how) {
    element("state-text").textContent = word;
    element("show-panel").dataset.state = how;
  }

  faults(faults) {
    const chips = faults.map((fault) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "chip";
      const name = fault.fault.replaceAll("_", " ");
      const detail = [fault.status, fault.code, fault.route, fault.ms && `${fault.ms} ms`, fault.times && `×${fault.times}`].filter(Boolean).join(" · ");
      button.textContent = detail ? `${name} (${detail})` : name;
      button.ariaLabel = `Clear: ${button.textContent}`;
      button.addEventListener("click", () => this.call("DELETE", `/sim/faults/${fault.id}`));
      return button;
    });
    element("faults").replaceChildren(...chips);
  }

  note(kind, what, status = "") {
    const line = document.createElement("li");
    line.className = kind;
    const text = document.createElement("span");
    text.textContent = what;
    line.append(text);
    if (status) {
      const code = document.createElement("b");
      code.textContent = status;
      line.append(code);
    }
    const list = element("activity");
    list.prepend(line);
    while (list.children.length > ACTIVITY_KEPT) list.lastChild.remove();
  }
}

function row(name, value, more) {
  const box = document.createElement("div");
  const term = document.createElement("dt");
  term.textContent = name;
  const detail = document.createElement("dd");
  detail.textContent = value;
  if (more) {
    const extra = document.createElement("small");
    extra.textContent = more;
    detail.append(extra);
  }
  box.append(term, detail);
  return box;
}
