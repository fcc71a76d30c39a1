// The message box: Enter sends, @ suggests people, and the limit is shown before it bites.

import { withMentions } from "./text.js";

const LIMIT = 2000;
const WARN_AT = 200;

export class Composer {
  constructor({ people, send }) {
    this.people = people;
    this.send = send;
    this.replyTo = null;
    this.chosen = 0;
    this.matches = [];
    this.form = document.getElementById("composer");
    this.input = document.getElementById("input");
    this.list = document.getElementById("suggestions");
    this.left = document.getElementById("left");
    this.problem = document.getElementById("problem");
    this.replying = document.getElementById("replying");
    this.ping = document.getElementById("ping");
    this.form.addEventListener("submit", (event) => this.submit(event));
    this.input.addEventListener("input", () => this.changed());
    this.input.addEventListener("keydown", (event) => this.key(event));
    this.input.addEventListener("blur", () => this.suggest([]));
    document.getElementById("no-reply").addEventListener("click", () => this.reply(null));
  }

  /// Takes a message to reply to, or none.
  reply(message, name = "") {
    this.replyTo = message;
    this.replying.hidden = !message;
    this.ping.checked = true;
    document.getElementById("replying-to").textContent = name;
    this.input.focus();
  }

  /// Puts a text into the box, to be sent or changed.
  offer(text) {
    this.input.value = text;
    this.changed();
    this.input.focus();
  }

  async submit(event) {
    event.preventDefault();
    const content = withMentions(this.input.value, this.people());
    if (!content.trim()) return;
    const message = { content };
    if (this.replyTo) Object.assign(message, { reply_to: this.replyTo.id, mention_reply: this.ping.checked });
    const kept = this.input.value;
    this.input.value = "";
    this.changed();
    this.problem.textContent = "";
    try {
      await this.send(message);
      this.reply(null);
    } catch (error) {
      this.problem.textContent = error.message;
      this.offer(kept);
    }
  }

  changed() {
    this.input.style.height = "auto";
    this.input.style.height = `${Math.min(this.input.scrollHeight, 220)}px`;
    const left = LIMIT - [...withMentions(this.input.value, this.people()).trim()].length;
    this.left.textContent = left < WARN_AT ? String(left) : "";
    this.left.classList.toggle("over", left < 0);
    this.suggest(this.candidates());
  }

  /// People whose name begins with what stands between an @ and the caret.
  candidates() {
    const before = this.input.value.slice(0, this.input.selectionStart);
    const typed = before.match(/(?:^|\s)@([\p{L}\p{N}_]*)$/u);
    if (!typed) return [];
    this.typed = typed[1].length;
    const wanted = typed[1].toLowerCase();
    const begins = (person) => person.username.toLowerCase().startsWith(wanted) || person.display_name.toLowerCase().startsWith(wanted);
    return this.people().filter((person) => person.member && begins(person)).slice(0, 6);
  }

  suggest(matches) {
    this.matches = matches;
    this.chosen = 0;
    this.list.hidden = matches.length === 0;
    this.draw();
  }

  draw() {
    const item = (person, at) => {
      const element = document.createElement("li");
      element.id = `suggestion-${at}`;
      element.role = "option";
      element.setAttribute("aria-selected", String(at === this.chosen));
      element.textContent = person.display_name;
      const handle = document.createElement("span");
      handle.textContent = person.bot ? "app" : person.username;
      element.append(handle);
      // `mousedown` comes before the box loses focus and the list closes.
      element.addEventListener("mousedown", (event) => {
        event.preventDefault();
        this.complete(at);
      });
      return element;
    };
    this.list.replaceChildren(...this.matches.map(item));
    const active = this.list.hidden ? "" : `suggestion-${this.chosen}`;
    this.input.setAttribute("aria-activedescendant", active);
  }

  complete(at) {
    const caret = this.input.selectionStart;
    const start = caret - this.typed;
    const name = this.matches[at].username;
    this.input.setRangeText(`${name} `, start, caret, "end");
    this.changed();
  }

  key(event) {
    if (event.isComposing) return;
    const open = !this.list.hidden;
    const move = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (open && move) {
      event.preventDefault();
      this.chosen = (this.chosen + move + this.matches.length) % this.matches.length;
      this.draw();
    } else if (open && (event.key === "Tab" || (event.key === "Enter" && this.typed < this.matches[this.chosen].username.length))) {
      event.preventDefault();
      this.complete(this.chosen);
    } else if (event.key === "Escape") {
      if (open) this.suggest([]);
      else if (this.replyTo) this.reply(null);
    } else if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      this.form.requestSubmit();
    }
  }
}
