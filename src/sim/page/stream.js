// The messages of one channel.

import { plain, show } from "./text.js";

/// Messages of one author within this time stand under one name.
const TOGETHER_MS = 7 * 60 * 1000;
const HUES = 8;

/// A round mark with initials; the colour follows from the id.
export function avatar(person) {
  const mark = document.createElement("span");
  mark.className = "avatar";
  mark.ariaHidden = "true";
  const name = person?.display_name ?? "?";
  mark.textContent = [...name][0].toUpperCase();
  mark.dataset.hue = String(Number(BigInt(person?.id ?? 0) % BigInt(HUES)));
  if (person?.bot) mark.classList.add("bot");
  return mark;
}

export class Stream {
  constructor(state, { me, reply, remove, offer }) {
    Object.assign(this, { state, me, reply, remove, offer });
    this.box = document.getElementById("stream");
    this.atEnd = true;
    this.box.addEventListener("scroll", () => {
      this.atEnd = this.box.scrollHeight - this.box.scrollTop - this.box.clientHeight < 80;
    });
    // Whoever reads the newest message keeps reading it when the box below grows.
    new ResizeObserver(() => this.atEnd && this.toEnd()).observe(this.box);
  }

  toEnd() {
    this.box.scrollTop = this.box.scrollHeight;
  }

  names() {
    const { people, roles, channels } = this.state;
    return {
      self: this.me(),
      person: (id) => people.get(id)?.display_name,
      role: (id) => roles.get(id)?.name,
      channel: (id) => channels.get(id)?.name,
    };
  }

  show(channel) {
    this.last = null;
    this.box.replaceChildren(this.beginning(channel));
    for (const message of channel.messages) this.box.append(this.message(message));
    this.toEnd();
  }

  add(message) {
    const atEnd = this.atEnd;
    const element = this.message(message);
    element.classList.add("new");
    this.box.append(element);
    if (atEnd || message.author.id === this.me()) this.toEnd();
  }

  /// What stands above the first message, with something to try.
  beginning(channel) {
    const box = document.createElement("div");
    box.className = "beginning";
    const heading = document.createElement("h3");
    const bot = this.state.people.get(this.state.bot);
    heading.textContent = channel.kind === "dm" ? `A direct message with ${bot.display_name}` : `Welcome to #${channel.name}`;
    heading.dir = "auto";
    const text = document.createElement("p");
    box.append(heading, text);
    if (channel.kind === "forum") {
      text.textContent = "A forum has no messages of its own: open one of its posts in the list.";
      return box;
    }
    const example = channel.kind === "dm" ? "hello" : `@${bot.username} hello`;
    text.textContent = "Nothing here leaves this machine. Try: ";
    const offer = document.createElement("button");
    offer.type = "button";
    offer.textContent = example;
    offer.addEventListener("click", () => this.offer(example));
    text.append(offer);
    return box;
  }

  message(message) {
    const person = this.state.people.get(message.author.id);
    const when = new Date(message.timestamp);
    const grouped = this.last && this.last.author === message.author.id && !message.message_reference && when - this.last.when < TOGETHER_MS;
    this.last = { author: message.author.id, when };
    const article = document.createElement("article");
    article.classList.toggle("grouped", Boolean(grouped));
    article.classList.toggle("pinged", message.pinged.includes(this.me()));
    article.tabIndex = -1;
    if (message.message_reference) article.append(this.reference(message.referenced_message));
    if (!grouped) article.append(avatar(person), this.heading(message, person, when));
    const body = document.createElement("div");
    body.className = "body";
    body.dir = "auto";
    show(body, message.content, this.names());
    if (message.edited_timestamp) body.append(small("(edited)"));
    for (const file of message.attachments) body.append(small(`📎 ${file.filename}`));
    article.append(body, this.actions(message, person));
    return article;
  }

  heading(message, person, when) {
    const line = document.createElement("p");
    line.className = "who";
    const name = document.createElement("b");
    name.dir = "auto";
    name.textContent = person?.display_name ?? message.author.username;
    line.append(name);
    if (person?.bot) {
      const tag = document.createElement("span");
      tag.className = "tag";
      tag.textContent = message.webhook_id ? "WEBHOOK" : "APP";
      line.append(tag);
    }
    const time = document.createElement("time");
    time.dateTime = message.timestamp;
    time.textContent = when.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    line.append(time);
    return line;
  }

  /// The line above a reply that shows what it answers.
  reference(original) {
    const line = document.createElement("p");
    line.className = "reference";
    if (!original) {
      line.append(small("Original message was deleted"));
      return line;
    }
    const person = this.state.people.get(original.author.id);
    const name = document.createElement("b");
    name.textContent = person?.display_name ?? original.author.username;
    const text = document.createElement("span");
    text.dir = "auto";
    text.textContent = plain(original.content, this.names());
    line.append(avatar(person), name, text);
    return line;
  }

  actions(message, person) {
    const box = document.createElement("div");
    box.className = "actions";
    const name = person?.display_name ?? message.author.username;
    const add = (label, sign, act) => {
      const button = document.createElement("button");
      button.type = "button";
      button.ariaLabel = label;
      button.title = label;
      button.textContent = sign;
      button.addEventListener("click", act);
      box.append(button);
    };
    add(`Reply to ${name}`, "↩", () => this.reply(message, name));
    add("Delete message", "✕", () => this.remove(message));
    return box;
  }
}

function small(text) {
  const element = document.createElement("small");
  element.textContent = text;
  return element;
}
