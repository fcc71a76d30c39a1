// Markdown as elements of the page. Every character of the source reaches the page as text; what is made of it is
// chosen from the few elements below, and never from what the source says. HTML is text like any other.
//
// CommonMark and GitHub's tables, strikethrough and bare links, with three differences that suit a chat: a new line is
// a new line, `---` is always a rule, and emphasis may touch punctuation from both sides, as it does in Japanese.

import { make } from './dom.js'
import { words } from './words.js'

const DEEPEST = 12 // quotes and lists within each other, and emphasis within emphasis; deeper ones stay as written
const LONGEST = 4_000 // characters of a link's destination
const LOOK_BACK = 64 // openings of emphasis that are tried for one closing
const PARENTHESES = 32 // within each other, in a link's destination
const COLUMNS = 50 // of a table; a wider one stays as written
const SPARE_CELLS = 2_000 // of a table, that none of its rows wrote

const FENCE = /^( *)(`{3,}(?=[^`]*$)|~{3,})(.*)$/
const RULE = /^ {0,3}(?:(?:-[ \t]*){3,}|(?:\*[ \t]*){3,}|(?:_[ \t]*){3,})$/
const HEADING = /^ {0,3}(#{1,6})(?=[ \t]|$)/
const QUOTE = /^ {0,3}> ?/
const ITEM = /^( *)([-*+]|\d{1,9}[.)])([ \t]+|$)/
const BARE = /https?:\/\/[^\s<>]{1,2000}/y
const ANGLED = /<((?:https?:\/\/|mailto:)[^\s<>]+)>/y
const WORD = /[\p{L}\p{N}]/u
const PUNCTUATION = /[!-/:-@[-`{-~]/

/** An answer in `container` that grows: what is finished stays as it is, and only its end is made anew. */
export class Prose {
  #container
  #text = ''
  #settled = 0 // where in the text the blocks begin that may still change
  #level = 2 // of the last heading of those that can't
  #tail = [] // those that may: what they were made from, and their elements

  constructor(container) {
    this.#container = container
  }

  /** Shows `source`; `open` says that more is to come, so what is begun at its end is shown as if it were finished. */
  set(source, open) {
    const text = source.replaceAll('\r\n', '\n')
    if (!text.startsWith(this.#text)) {
      this.#container.replaceChildren()
      this.#settled = 0
      this.#level = 2
      this.#tail = []
    }
    this.#text = text
    const lines = text.slice(this.#settled).split('\n')
    const blocks = parse(lines, 0, open)
    // Nothing but marks: of what, the next piece says.
    if (open && blocks.at(-1)?.type === 'paragraph' && /^[`*_~]+$/.test(blocks.at(-1).text)) blocks.pop()
    const fresh = []
    let level = this.#level
    for (const [index, block] of blocks.entries()) {
      const last = open && index === blocks.length - 1
      const written = lines.slice(block.start, block.end).join('\n')
      const begun = this.#tail[index]
      let node
      if (begun?.written === written && begun.last === last && begun.level === level) {
        node = begun.node
      } else if (block.type === 'code' && begun?.type === 'code' && begun.language === block.language) {
        node = begun.node
        node.querySelector('code').firstChild.data = block.text
      } else {
        node = element(block, { open: last, level, depth: 0 })
        if (begun) begun.node.replaceWith(node)
        else this.#container.append(node)
      }
      fresh.push({ written, last, level, node, type: block.type, language: block.language, start: block.start })
      level = levelAfter(block, level)
    }
    for (const { node } of this.#tail.slice(blocks.length)) node.remove()
    this.#tail = fresh
    // What a block is may change with its last line, and with it what the block before it takes in.
    const sure = fresh.length - 2
    if (sure > 0) {
      const from = fresh[sure]
      this.#settled += lines.slice(0, from.start).reduce((sum, line) => sum + line.length + 1, 0)
      this.#level = from.level
      this.#tail = fresh.slice(sure)
    }
  }
}

// --- blocks -----------------------------------------------------------------------------------------------------

/** What the lines are: blocks of `{type, start, end, …}`, the last two being numbers of lines. */
function parse(lines, depth, open) {
  const blocks = []
  let at = 0
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at += 1
      continue
    }
    const nested = depth < DEEPEST ? [list, quote] : []
    const kinds = [code, heading, rule, ...nested, table, paragraph]
    let block = null
    for (let kind = 0; !block; kind += 1) block = kinds[kind](lines, at, open)
    blocks.push({ ...block, start: at })
    at = block.end
  }
  return blocks
}

function code(lines, at) {
  const begin = FENCE.exec(lines[at])
  if (!begin) return null
  const [, indent, fence, info] = begin
  const text = []
  let end = at + 1
  for (; end < lines.length; end += 1) {
    const line = lines[end].trim()
    if (line.length >= fence.length && line === fence[0].repeat(line.length)) break
    text.push(lines[end].startsWith(indent) ? lines[end].slice(indent.length) : lines[end].trimStart())
  }
  const closed = end < lines.length
  // A fence that is only half there is no code yet.
  if (!closed && text.length && /^ *(`{1,2}|~{1,2})$/.test(text.at(-1))) text.pop()
  return { type: 'code', language: info.trim().split(/\s/)[0], text: text.join('\n'), end: end + closed }
}

function heading(lines, at) {
  const begin = HEADING.exec(lines[at])
  if (!begin) return null
  let text = lines[at].slice(begin[0].length).trim()
  let end = text.length
  while (text[end - 1] === '#') end -= 1
  if (end === 0 || text[end - 1] === ' ') text = text.slice(0, end).trimEnd()
  return { type: 'heading', level: begin[1].length, text, end: at + 1 }
}

function rule(lines, at) {
  return RULE.test(lines[at]) ? { type: 'rule', end: at + 1 } : null
}

function quote(lines, at) {
  if (!QUOTE.test(lines[at])) return null
  const inner = []
  let end = at
  for (; end < lines.length && lines[end].trim(); end += 1) {
    if (!QUOTE.test(lines[end]) && begins(lines, end)) break
    inner.push(lines[end].replace(QUOTE, ''))
  }
  return { type: 'quote', lines: inner, end }
}

/** A line whose indentation is spaces. */
function spaced(line) {
  return line.replace(/^[ \t]+/, (indent) => indent.replaceAll('\t', '    '))
}

function list(lines, at) {
  const begin = ITEM.exec(spaced(lines[at]))
  if (!begin || RULE.test(lines[at])) return null
  const [, { length: indent }, marker] = begin
  const kind = marker.at(-1)
  const items = []
  let loose = false
  let blank = false
  let inner = 0 // where the text of the current item begins
  let end = at
  for (let next = at; next < lines.length; next += 1) {
    const line = spaced(lines[next])
    if (!line.trim()) {
      blank = true
      continue
    }
    const own = ITEM.exec(line)
    const leading = line.length - line.trimStart().length
    if (own && !RULE.test(line) && leading < inner && leading <= indent + 1) {
      if (own[2].at(-1) !== kind || leading < indent - 1) break
      inner = own[0].length - Math.max(0, own[3].length - 4)
      if (!line.slice(own[0].length).trim()) inner = leading + own[2].length + 1
      items.push([line.slice(inner)])
    } else if (!items.length) {
      inner = begin[0].length
      items.push([line.slice(inner)])
    } else if (leading >= inner || (own && leading > indent + 1)) {
      if (blank) items.at(-1).push('')
      items.at(-1).push(line.slice(Math.min(leading, inner)))
    } else if (!blank && !begins(lines, next)) {
      items.at(-1).push(line.trimStart())
    } else {
      break
    }
    loose ||= blank
    blank = false
    end = next + 1
  }
  return { type: 'list', ordered: marker.length > 1, first: Number.parseInt(marker, 10), items, loose, end }
}

function cells(line) {
  const inner = line.trim().replace(/^\|/, '')
  const parts = ['']
  for (let at = 0; at < inner.length; at += 1) {
    if (inner[at] === '\\' && inner[at + 1] === '|') parts[parts.length - 1] += inner[(at += 1)]
    else if (inner[at] === '|') parts.push('')
    else parts[parts.length - 1] += inner[at]
  }
  if (parts.length > 1 && !parts.at(-1).trim()) parts.pop()
  return parts.map((part) => part.trim())
}

/** The columns of a table that begins here, each as the line under its head has it. */
function columnsAt(lines, at) {
  if (!lines[at].includes('|') || !lines[at + 1]?.includes('-')) return null
  const columns = cells(lines[at + 1])
  const fits = columns.length <= COLUMNS && columns.length === cells(lines[at]).length
  return fits && columns.every((column) => /^:?-+:?$/.test(column)) ? columns : null
}

function table(lines, at, open) {
  // The line that makes it a table may still be to come.
  const begun = open && /^ *\|/.test(lines[at]) && at + 2 >= lines.length && /^[|: -]*$/.test(lines[at + 1] ?? '')
  const columns = columnsAt(lines, at) ?? (begun ? [] : null)
  if (!columns) return null
  const head = cells(lines[at])
  const sides = columns.map((column) => (column.endsWith(':') ? (column.startsWith(':') ? 'center' : 'end') : ''))
  const rows = []
  let end = Math.min(at + 2, lines.length)
  for (; end < lines.length && lines[end].includes('|') && !begins(lines, end); end += 1) rows.push(cells(lines[end]))
  return { type: 'table', head, sides, rows, end }
}

function paragraph(lines, at) {
  let end = at + 1
  while (end < lines.length && lines[end].trim() && !begins(lines, end)) end += 1
  const text = lines.slice(at, end).map((line) => line.trimStart())
  return { type: 'paragraph', text: text.join('\n'), end }
}

/** Whether a line begins something in the middle of a paragraph. */
function begins(lines, at) {
  const line = lines[at]
  const item = ITEM.exec(line)
  return (
    FENCE.test(line) ||
    HEADING.test(line) ||
    RULE.test(line) ||
    QUOTE.test(line) ||
    (item && line.length > item[0].length && (item[2].length === 1 || Number.parseInt(item[2], 10) === 1)) ||
    columnsAt(lines, at) !== null
  )
}

// --- their elements ---------------------------------------------------------------------------------------------

function levelAfter(block, level) {
  return block.type === 'heading' ? Math.min(block.level + 2, level + 1, 6) : level
}

function element(block, { open, level, depth }) {
  // What is within something has its direction: by its own, that would not know which it is.
  const dir = depth ? {} : { dir: 'auto' }
  switch (block.type) {
    case 'code':
      return codeElement(block)
    case 'heading':
      // The answer has a heading of its own, and a reader goes from one level to the next.
      return make(`h${levelAfter(block, level)}`, { class: `size-${block.level}`, ...dir }, inline(block.text, open))
    case 'rule':
      return make('hr')
    case 'quote':
      return make('blockquote', dir, elements(block.lines, { open, level, depth }))
    case 'list':
      return make(
        block.ordered ? 'ol' : 'ul',
        { ...dir, ...(block.ordered && block.first !== 1 ? { start: String(block.first) } : {}) },
        block.items.map((item, index) => itemElement(item, block, { open: open && index === block.items.length - 1, level, depth })),
      )
    case 'table':
      return tableElement(block, { open, dir })
    default:
      return make('p', dir, inline(block.text, open))
  }
}

/** What the lines are, within something else; where that is `tight` its paragraphs are no elements of their own. */
function elements(lines, { open, level, depth, tight = false }) {
  let now = level
  const blocks = parse(lines, depth + 1, open)
  return blocks.flatMap((block, index) => {
    const last = open && index === blocks.length - 1
    if (tight && block.type === 'paragraph') return inline(block.text, last)
    const made = element(block, { open: last, level: now, depth: depth + 1 })
    now = levelAfter(block, now)
    return made
  })
}

function itemElement(lines, { loose }, { open, level, depth }) {
  const task = /^\[([ xX])\] (?=\S)/.exec(lines[0])
  const text = task ? [lines[0].slice(task[0].length), ...lines.slice(1)] : lines
  const nodes = elements(text, { open, level, depth, tight: !loose })
  if (!task) return make('li', {}, nodes)
  const done = task[1] !== ' '
  const box = make('span', { class: 'box', role: 'img', 'aria-label': words[done ? 'done' : 'open'] }, done ? '☑' : '☐')
  return make('li', { class: 'task' }, box, ' ', nodes)
}

function tableElement({ head, sides, rows }, { open, dir }) {
  let spare = SPARE_CELLS
  const columns = (texts) => {
    const missing = Math.min(Math.max(0, head.length - texts.length), spare)
    spare -= missing
    return head.slice(0, texts.length + missing)
  }
  const row = (name, texts, last) =>
    make('tr', {}, columns(texts).map((_, index) => {
      const side = sides[index] ? { class: sides[index] } : {}
      const scope = name === 'th' ? { scope: 'col' } : {}
      const parts = (texts[index] ?? '').split(/<br ?\/?>/) // a cell has no other way to say it
      const nodes = parts.flatMap((part, at) => [...(at ? [make('br')] : []), ...inline(part, last)])
      return make(name, { ...side, ...scope }, nodes)
    }))
  const body = rows.map((texts, index) => row('td', texts, open && index === rows.length - 1))
  const made = make('table', dir, make('thead', {}, row('th', head, open && !rows.length)), make('tbody', {}, body))
  return make('div', { class: 'wide', role: 'group', tabindex: '0', 'aria-label': words.table }, made)
}

function codeElement({ language, text }) {
  const name = language ? words.codeIn(language) : words.code
  return make(
    'figure',
    { class: 'code' },
    make(
      'figcaption',
      {},
      make('span', { class: 'language', dir: 'auto' }, language),
      make('button', { type: 'button', class: 'copy', 'aria-label': words.copyCode }, words.copy),
    ),
    make('pre', { tabindex: '0', dir: 'ltr', role: 'group', 'aria-label': name }, make('code', {}, document.createTextNode(text))),
  )
}

// --- within a line ----------------------------------------------------------------------------------------------

/** The nodes of a text. What is open at its end is closed there where `open`, else it is as written. */
function inline(text, open) {
  const line = new Line(text, open)
  return line.nodes()
}

/** A text that is read from left to right; `out` is what is read so far: nodes, and what may yet become emphasis. */
class Line {
  constructor(text, open) {
    Object.assign(this, { text, open, at: 0, out: [], plain: '' })
    this.openings = { '*': [], _: [], '~': [] } // places in `out`
    this.brackets = [] // the same, of `[`
    this.ticks = new Map() // by length of a run of backticks: from where on there is none
  }

  nodes() {
    while (this.at < this.text.length) this.step()
    this.flush()
    if (this.open) this.closeAll()
    return asNodes(this.out)
  }

  step() {
    const { text, at } = this
    const character = text[at]
    switch (character) {
      case '\\':
        if (text[at + 1] === '\n') return this.put(make('br'), 2)
        if (PUNCTUATION.test(text[at + 1] ?? '')) return this.say(text[at + 1], 2)
        return this.say(character, 1)
      case '\n':
        this.plain = this.plain.trimEnd()
        return this.put(make('br'), 1)
      case '`':
        return this.codeSpan()
      case '*':
      case '_':
      case '~':
        return this.run(character)
      case '[':
        this.flush()
        this.brackets.push(this.out.length)
        this.out.push({ bracket: text[at - 1] === '!' && text[at - 2] !== '\\' ? '![' : '[' })
        this.at += 1
        return undefined
      case ']':
        return this.link()
      case '<': {
        ANGLED.lastIndex = at
        const found = ANGLED.exec(text)
        const target = found && safe(found[1])
        return target ? this.put(anchor(target, [document.createTextNode(found[1])]), found[0].length) : this.say('<', 1)
      }
      case 'h':
        return this.bare()
      default: {
        let end = at + 1
        while (end < text.length && !'\\\n`*_~[]<h'.includes(text[end])) end += 1
        return this.say(text.slice(at, end), end - at)
      }
    }
  }

  say(text, length) {
    this.plain += text
    this.at += length
  }

  put(node, length) {
    this.flush()
    this.out.push({ node, depth: 0 })
    this.at += length
  }

  flush() {
    if (this.plain) this.out.push({ text: this.plain, depth: 0 })
    this.plain = ''
  }

  codeSpan() {
    const { text, at } = this
    let end = at
    while (text[end] === '`') end += 1
    const ticks = text.slice(at, end)
    let close = -1
    if (end < (this.ticks.get(ticks.length) ?? Infinity)) {
      for (let from = end; ; ) {
        close = text.indexOf(ticks, from)
        if (close < 0) break
        let after = close
        while (text[after] === '`') after += 1
        if (after - close === ticks.length) break
        from = after
      }
    }
    if (close < 0) {
      this.ticks.set(ticks.length, at)
      if (!this.open) return this.say(ticks, ticks.length)
      if (end === text.length) return this.say('', ticks.length)
      close = text.length
    }
    let inner = text.slice(end, close).replaceAll('\n', ' ')
    if (inner.length > 2 && inner.startsWith(' ') && inner.endsWith(' ') && inner.trim()) inner = inner.slice(1, -1)
    return this.put(make('code', {}, document.createTextNode(inner)), close + ticks.length - at)
  }

  run(character) {
    const { text, at } = this
    let end = at
    while (text[end] === character) end += 1
    const [before, after] = [text[at - 1] ?? ' ', text[end] ?? ' ']
    let opens = /\S/.test(after)
    let closes = /\S/.test(before)
    if (character === '_') {
      ;[opens, closes] = [opens && !WORD.test(before), closes && !WORD.test(after)]
    }
    let count = end - at
    this.at = end
    if (character === '~' && count !== 2) return this.say(text.slice(at, end), 0)
    this.flush()
    if (closes) count = this.close(character, count, opens)
    if (!count) return undefined
    // At the very end it may be the beginning of something: what, the next piece says.
    if (this.open && end === text.length) return undefined
    if (opens) this.openings[character].push(this.out.length)
    this.out.push({ run: character, count, opens })
    return undefined
  }

  /** Closes what is open, with so many characters; returns how many are left. */
  close(character, length, alsoOpens) {
    let count = length
    const openings = this.openings[character]
    for (let back = 0; count && back < Math.min(LOOK_BACK, openings.length); ) {
      const place = openings.at(-1 - back)
      const opener = this.out[place]
      // CommonMark's rule of three: `*a**b*` is one emphasis.
      const unfit =
        character === '~'
          ? opener.count !== count
          : alsoOpens && (opener.count + count) % 3 === 0 && (opener.count % 3 !== 0 || count % 3 !== 0)
      if (unfit) {
        back += 1
        continue
      }
      const taken = Math.min(opener.count, count, 2)
      if (!this.wrap(place, character, taken)) break
      count -= taken
      back = 0
    }
    return count
  }

  /** Makes one element of all that is after the run at `place`, and takes what opened it from the run, or does nothing. */
  wrap(place, character, taken) {
    let depth = 1
    for (let at = place + 1; at < this.out.length; at += 1) depth = Math.max(depth, 1 + (this.out[at].depth ?? 0))
    if (depth > DEEPEST) {
      // Nor can anything that begins before it hold it.
      for (const places of Object.values(this.openings)) places.length = 0
      return false
    }
    const inner = this.out.splice(place + 1)
    this.forget(place + 1)
    const opener = this.out[place]
    opener.count -= taken
    if (!opener.count) {
      this.out.pop()
      this.forget(place)
    }
    const name = character === '~' ? 'del' : taken === 2 ? 'strong' : 'em'
    this.out.push({ node: make(name, {}, asNodes(inner)), depth })
    return true
  }

  /** What is at `place` or after it is part of something now. */
  forget(place) {
    for (const places of [...Object.values(this.openings), this.brackets]) {
      while (places.length && places.at(-1) >= place) places.pop()
    }
  }

  link() {
    const place = this.brackets.pop()
    const found = place === undefined ? null : destination(this.text, this.at + 1, this.open)
    const target = found && (found.half ? 'half' : safe(found.to))
    if (!target) return this.say(']', 1)
    this.flush()
    const inner = this.out.splice(place + 1)
    const { bracket } = this.out.pop()
    this.forget(place)
    this.at = found.end
    const image = bracket === '![' && this.out.at(-1)
    if (image) image.text = image.text.slice(0, -1) // the `!`: a picture from elsewhere is a link
    if (found.half) {
      for (const node of asNodes(inner)) this.out.push({ node, depth: 1 })
      return undefined
    }
    const nodes = asNodes(inner)
    this.brackets = [] // no link holds another
    this.out.push({ node: anchor(target, nodes.length ? nodes : [document.createTextNode(found.to)]), depth: 1 })
    return undefined
  }

  bare() {
    const { text, at } = this
    BARE.lastIndex = at
    const found = /[\p{L}\p{N}_]/u.test(text[at - 1] ?? ' ') || this.brackets.length ? null : BARE.exec(text)
    if (!found) return this.say('h', 1)
    let unbalanced = found[0].split(')').length - found[0].split('(').length
    let { length } = found[0]
    for (; ; length -= 1) {
      const end = found[0][length - 1]
      if (end === ')' && unbalanced > 0) unbalanced -= 1
      else if (!'.,:;!?\'"*_~]}、。，．：；！？」』】）'.includes(end)) break
    }
    const url = found[0].slice(0, length)
    const target = safe(url)
    return target ? this.put(anchor(target, [document.createTextNode(url)]), url.length) : this.say('h', 1)
  }

  closeAll() {
    // So many at once are no emphasis that is being written.
    const marks = Object.values(this.openings).flat().map((place) => this.out[place].count)
    if (marks.length > DEEPEST || marks.some((count) => count > DEEPEST)) return
    for (;;) {
      const place = Math.max(...Object.values(this.openings).map((places) => places.at(-1) ?? -1))
      if (place < 0) break
      const { run, count } = this.out[place]
      if (!this.wrap(place, run, Math.min(count, 2))) break
    }
  }
}

/** The nodes of what was read; text beside text is one. */
function asNodes(parts) {
  const nodes = []
  let text = []
  const flush = () => {
    if (text.length) nodes.push(document.createTextNode(text.join('')))
    text = []
  }
  for (const part of parts) {
    if (part.node) {
      flush()
      nodes.push(part.node)
    } else {
      text.push(part.text ?? (part.bracket ? '[' : part.run.repeat(part.count)))
    }
  }
  flush()
  return nodes
}

/** What is in the parentheses at `from`: `{to, end}`; `{half: true, end}` where the text ends within them. */
function destination(text, from, open) {
  if (text[from] !== '(') return null
  let depth = 0
  let at = from + 1
  for (; at < text.length; at += 1) {
    if (text[at] === '\n' || at > from + LONGEST) return null
    if (text[at] === '\\') at += 1
    else if (text[at] === '(') {
      depth += 1
      if (depth > PARENTHESES) return null
    } else if (text[at] === ')' && depth-- === 0) {
      const inner = text.slice(from + 1, at).trim()
      const [, to] = /^(<[^<>]*>|\S+)(?:\s+(?:"[^"]*"|'[^']*'|\([^()]*\)))?$/.exec(inner) ?? []
      return to ? { to: to.replace(/^<|>$/g, '').replace(/\\([!-/:-@[-`{-~])/g, '$1'), end: at + 1 } : null
    }
  }
  return open ? { half: true, end: text.length } : null
}

/** The address, if it leads to where a link may lead. */
function safe(raw) {
  try {
    const url = new URL(raw)
    return ['http:', 'https:', 'mailto:'].includes(url.protocol) ? url.href : null
  } catch {
    return null
  }
}

function anchor(href, nodes) {
  return make('a', { href, target: '_blank', rel: 'noopener noreferrer', title: href }, nodes)
}
