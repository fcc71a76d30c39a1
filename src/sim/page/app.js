// The page: reads the whole state once, then follows what happens.

import { Composer } from "./composer.js";
import { Panel } from "./panel.js";
import { Stream, avatar } from "./stream.js";

const element = (id) => document.getElementById(id);
const state = { people: new Map(), roles: new Map(), channels: new Map(), bot: null, channel: null, unread: new Set() };

async function call(method, path, body) {
  const headers = body ? { "content-type": "application/json" } : {};
  const answer = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  const text = await answer.text();
  const value = text ? JSON.parse(text) : null;
  if (!answer.ok) throw new Error(value?.error ?? `The simulator answered ${answer.status}.`);
  return value;
}

const me = () => element("person").value;
const stream = new Stream(state, {
  me,
  reply: (message, name) => composer.reply(message, name),
  remove: (message) => call("POST", "/sim/delete", { channel: message.channel_id, message: message.id }),
  offer: (text) => composer.offer(text),
});
const composer = new Composer({
  people: () => [...state.people.values()],
  send: (message) => call("POST", "/sim/say", { ...message, channel: state.channel, person: me() }),
});
const panel = new Panel(call);

async function load() {
  const all = await call("GET", "/sim/state");
  state.people = new Map(all.people.map((person) => [person.id, person]));
  state.roles = new Map(all.guilds.flatMap((guild) => guild.roles).map((role) => [role.id, role]));
  state.channels = new Map(all.channels.map((channel) => [channel.id, channel]));
  state.bot = all.bot.id;
  element("guild-name").textContent = all.guilds[0].name;
  if (element("person").options.length === 0) {
    const speakers = all.people.filter((person) => person.member && !person.bot);
    element("person").append(...speakers.map((person) => new Option(person.display_name, person.id)));
    element("person").value = speakers[0].id;
  }
  if (!state.channels.has(state.channel)) state.channel = first();
  panel.update(all.gateway);
  openChannel(state.channel, false);
}

const first = () => [...state.channels.values()].find((channel) => channel.kind === "text").id;

/// What a channel is called in the list and in its title.
function title(channel) {
  if (channel.kind !== "dm") return channel.name;
  return channel.recipients.map((person) => `${state.people.get(person.id)?.display_name} & ${state.people.get(state.bot).display_name}`).join(", ");
}

function openChannel(id, focus = true) {
  state.channel = id;
  state.unread.delete(id);
  const channel = state.channels.get(id);
  // A direct channel has one person at its end besides the bot.
  if (channel.kind === "dm") element("person").value = channel.recipients[0].id;
  drawMe();
  element("channel-name").textContent = channel.kind === "dm" ? title(channel) : `#${title(channel)}`;
  element("topic").textContent = channel.topic ?? note(channel);
  element("input").placeholder = channel.kind === "dm" ? `Message ${state.people.get(state.bot).display_name}` : `Message #${channel.name}`;
  element("input").disabled = channel.kind === "forum";
  element("typing").textContent = "";
  composer.reply(null);
  stream.show(channel);
  drawChannels();
  drawer(null);
  if (focus) element("input").focus();
}

function note(channel) {
  if (channel.kind === "forum") return "Posts are the threads below";
  if (!channel.view) return "The bot can't see this channel";
  if (!channel.send) return "The bot may read here, not write";
  return "";
}

function drawChannels() {
  const all = [...state.channels.values()].sort((one, other) => (one.position ?? 0) - (other.position ?? 0));
  const threads = (parent) => all.filter((channel) => channel.parent_id === parent.id).map((channel) => entry(channel, "thread"));
  const top = all.filter((channel) => channel.guild_id && channel.kind !== "thread");
  const direct = all.filter((channel) => channel.kind === "dm");
  element("channel-list").replaceChildren(
    group("Channels", top.flatMap((channel) => [entry(channel), ...threads(channel)])),
    group("Direct messages", direct.map((channel) => entry(channel))),
  );
}

function group(name, entries) {
  const section = document.createElement("section");
  const heading = document.createElement("h3");
  heading.textContent = name;
  const list = document.createElement("ul");
  list.append(...entries);
  section.append(heading, list);
  return section;
}

const MARKS = { dm: "@", forum: "❏", thread: "↳", announcement: "!", voice: "♪", category: "▾" };

function entry(channel, kind = "") {
  const item = document.createElement("li");
  item.className = kind;
  const button = document.createElement("button");
  button.type = "button";
  const mark = document.createElement("span");
  mark.className = "mark";
  mark.ariaHidden = "true";
  mark.textContent = MARKS[channel.kind] ?? "#";
  const name = document.createElement("span");
  name.className = "name";
  name.dir = "auto";
  name.textContent = title(channel);
  button.append(mark, name);
  const lock = channel.view === false ? "hidden" : channel.send === false ? "read-only" : "";
  if (lock) {
    const tag = document.createElement("small");
    tag.textContent = lock;
    button.append(tag);
  }
  button.classList.toggle("unread", state.unread.has(channel.id));
  if (channel.id === state.channel) button.setAttribute("aria-current", "page");
  button.addEventListener("click", () => openChannel(channel.id));
  item.append(button);
  return item;
}

function drawMe() {
  element("my-avatar").replaceWith(Object.assign(avatar(state.people.get(me())), { id: "my-avatar" }));
}

let typingEnds;
function typing(event) {
  if (event.channel_id !== state.channel || event.user_id === me()) return;
  const name = state.people.get(event.user_id)?.display_name ?? "Somebody";
  element("typing").textContent = `${name} is typing…`;
  clearTimeout(typingEnds);
  // Discord shows it for ten seconds, or until the message comes.
  typingEnds = setTimeout(() => (element("typing").textContent = ""), 10_000);
}

const follow = {
  message({ message }) {
    state.channels.get(message.channel_id)?.messages.push(message);
    if (message.channel_id === state.channel) {
      if (message.author.id !== me()) element("typing").textContent = "";
      stream.add(message);
    } else if (state.channels.has(message.channel_id)) {
      state.unread.add(message.channel_id);
      drawChannels();
    } else load();
  },
  message_edited({ message }) {
    const messages = state.channels.get(message.channel_id)?.messages ?? [];
    const at = messages.findIndex((old) => old.id === message.id);
    if (at >= 0) messages[at] = message;
    if (message.channel_id === state.channel) stream.show(state.channels.get(state.channel));
  },
  message_deleted({ channel_id, id }) {
    const channel = state.channels.get(channel_id);
    if (channel) channel.messages = channel.messages.filter((message) => message.id !== id);
    if (channel_id === state.channel) stream.show(channel);
  },
  typing,
  gateway: (event) => panel.update(event),
  violation: ({ violation }) => panel.note("warn", `The bot ${violation.what}`),
  rest: ({ method, path, status }) => panel.note(status < 400 ? "" : "warn", `${method} ${path.replace(/\d{15,}/g, "…")}`, String(status)),
  fault: ({ fault }) => panel.note("fault", fault.fault.replaceAll("_", " ")),
  channels: load,
  lagged: load,
};

function listen() {
  const events = new EventSource("/sim/events");
  // After a break the page may have missed something.
  events.onopen = load;
  events.onmessage = ({ data }) => {
    const event = JSON.parse(data);
    follow[event.type]?.(event);
  };
  events.onerror = () => panel.lost();
}

/// On a small screen the channels and the panel are drawers; one is open at most.
function drawer(name) {
  for (const each of ["channels", "panel"]) {
    document.body.classList.toggle(`${each}-open`, each === name);
    element(`show-${each}`).setAttribute("aria-expanded", String(each === name));
  }
}
for (const name of ["channels", "panel"]) {
  element(`show-${name}`).addEventListener("click", () => drawer(document.body.classList.contains(`${name}-open`) ? null : name));
}
element("shade").addEventListener("click", () => drawer(null));
document.addEventListener("keydown", (event) => event.key === "Escape" && drawer(null));
element("person").addEventListener("change", () => {
  const channel = state.channels.get(state.channel);
  if (channel.kind === "dm" && channel.recipients[0].id !== me()) {
    const person = me();
    openChannel(first());
    element("person").value = person;
  }
  drawMe();
  stream.show(state.channels.get(state.channel));
});

load().then(listen, () => panel.lost());
element("input").focus();
