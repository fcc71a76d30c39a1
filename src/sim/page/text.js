// Message text as elements. Text only ever becomes text nodes, so nothing a person writes is markup.

const CODE = /(```[\s\S]+?```|``[^`][\s\S]*?``|`[^`]+`)/;
const MENTION = /(<@[!&]?\d+>|<#\d+>|@everyone|@here|https?:\/\/[^\s<>]+)/;

/// Cuts a text into code and the rest: [{ code: bool, text }].
export function pieces(text) {
  return text.split(CODE).filter(Boolean).map((piece) => ({ code: CODE.test(piece) && piece.startsWith("`"), text: piece }));
}

/// Turns `@name` into what Discord's client sends, outside of code.
export function withMentions(text, people) {
  const ids = new Map();
  for (const person of people) {
    ids.set(person.username.toLowerCase(), person.id);
    ids.set(person.display_name.toLowerCase(), person.id);
  }
  const mention = (whole, before, name) => {
    const id = ids.get(name.toLowerCase());
    return id ? `${before}<@${id}>` : whole;
  };
  const outside = (piece) => piece.text.replace(/(^|[^\w<@])@([\p{L}\p{N}_]+)/gu, mention);
  return pieces(text).map((piece) => (piece.code ? piece.text : outside(piece))).join("");
}

/// Appends a message's text to an element. `names` tells what an id is called and whether it is oneself.
export function show(parent, text, names) {
  const all = pieces(text);
  const block = (piece) => piece?.text.startsWith("```") && piece.code;
  all.forEach((piece, at) => {
    if (piece.code) return parent.append(code(piece.text));
    // A block stands on lines of its own; the line breaks around it are not shown twice.
    let shown = piece.text;
    if (block(all[at - 1])) shown = shown.replace(/^\n/, "");
    if (block(all[at + 1])) shown = shown.replace(/\n$/, "");
    for (const part of shown.split(MENTION)) if (part) parent.append(inline(part, names));
  });
}

/// A text on one line, as references show it.
export function plain(text, names) {
  const name = (whole, kind, id) => {
    if (kind === "#") return `#${names.channel(id) ?? "unknown"}`;
    return `@${(kind === "@&" ? names.role(id) : names.person(id)) ?? "unknown"}`;
  };
  const shown = pieces(text).map((piece) => (piece.code ? piece.text : piece.text.replace(/<(@&|@|#)!?(\d+)>/g, name)));
  return shown.join("").replace(/\s+/g, " ");
}

function code(text) {
  if (!text.startsWith("```")) {
    const element = document.createElement("code");
    element.textContent = text.replace(/^(`+)([\s\S]*)\1$/, "$2");
    return element;
  }
  const block = document.createElement("pre");
  const inner = document.createElement("code");
  inner.textContent = text.slice(3, -3).replace(/^[\w+-]*\n/, "").replace(/\n$/, "");
  block.append(inner);
  return block;
}

function inline(part, names) {
  if (!MENTION.test(part)) return document.createTextNode(part);
  if (part.startsWith("http")) {
    const link = document.createElement("a");
    link.href = part;
    link.rel = "noreferrer noopener";
    link.target = "_blank";
    link.textContent = part;
    return link;
  }
  const element = document.createElement("span");
  element.className = "mention";
  element.textContent = plain(part, names);
  if (part.includes(names.self)) element.classList.add("self");
  return element;
}
