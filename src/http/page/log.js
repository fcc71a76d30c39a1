// What was said, as it is seen: one element for each message and its answer, drawn anew when something changed, at
// most once a frame.

import { chip } from './attachments.js'
import { byId, icon, make } from './dom.js'
import { Prose } from './markdown.js'
import { moment, words } from './words.js'

const log = byId('log')
const scroller = byId('scroller')
const latest = byId('latest')

// --- what is said to a screen reader ----------------------------------------------------------------------------

const status = byId('status')

/** Says it once, when nothing else is being said; what grows word by word is no such thing. */
export function announce(text) {
  status.textContent = ''
  requestAnimationFrame(() => (status.textContent = text))
}

// --- where it is scrolled to ------------------------------------------------------------------------------------

// The newest stays in sight, whatever grows, unless somebody scrolled up from it.
let following = true
let top = 0

function below() {
  return scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight
}

scroller.addEventListener('scroll', () => {
  // What has grown since the page scrolled by itself is not somebody's scrolling.
  const up = scroller.scrollTop < top
  top = scroller.scrollTop
  if (below() < 60) following = true
  else if (up) following = false
  latest.hidden = following
})
const sizes = new ResizeObserver(() => {
  if (following) toLatest()
  latest.hidden = following || below() < 60
})
sizes.observe(scroller)
sizes.observe(log)

export function toLatest() {
  following = true
  scroller.scrollTop = scroller.scrollHeight
  top = scroller.scrollTop
}

latest.addEventListener('click', () => {
  toLatest()
  byId('message').focus()
})

/** Refusals of what was sent: the same again is refused again. */
const FOR_GOOD = [400, 413, 415]

// --- a message and its answer -----------------------------------------------------------------------------------

class View {
  constructor(exchange, doing) {
    this.exchange = exchange
    this.note = make('p', { class: 'aside', hidden: true })
    this.files = make('ul', { class: 'chips', 'aria-label': words.attached, hidden: true })
    this.text = make('p', { class: 'text', dir: 'auto' })
    this.asked = make('time')
    this.prose = make('div', { class: 'prose' })
    this.dots = make('p', { class: 'dots', hidden: true }, make('span', { class: 'unseen' }, words.waiting))
    this.state = make('p', { class: 'state', hidden: true })
    this.cut = make('p', { class: 'state', hidden: true }, words.cut)
    this.why = make('p', { class: 'why' })
    this.detail = make('p', { class: 'detail', lang: 'en', dir: 'ltr', hidden: true })
    this.reference = make('p', { class: 'detail', hidden: true })
    this.retry = button(words.retry, 'retry', () => doing.retry(exchange), 'again')
    this.edit = button(words.edit, 'edit', () => doing.edit(exchange))
    this.problem = make('div', { class: 'problem', hidden: true }, this.why, this.detail, this.reference,
      make('div', { class: 'actions' }, this.retry, this.edit))
    this.copy = button(words.copy, 'copy', () => copied(this.copy, exchange.answer))
    this.copy.setAttribute('aria-label', words.copyAnswer)
    this.again = button(words.again, 'plain', () => doing.retry(exchange), 'again')
    this.answered = make('time')
    this.foot = make('footer', { hidden: true }, this.copy, this.again, this.answered)
    this.answer = make('article', { class: 'perch' }, make('h2', { class: 'unseen' }, 'perch'),
      this.prose, this.dots, this.state, this.cut, this.problem, this.foot)
    this.element = make('div', { class: 'exchange' }, this.note,
      make('article', { class: 'you' }, make('h2', { class: 'unseen' }, words.you), this.files, this.text, this.asked),
      this.answer)
    this.shown = new Prose(this.prose)
    this.drawFiles()
    this.draw()
  }

  drawFiles() {
    this.names = this.exchange.files.map((file) => file.name).join('\n')
    this.files.replaceChildren(...this.exchange.files.map((file) => chip(file)))
    this.files.hidden = !this.exchange.files.length
  }

  draw() {
    const { exchange } = this
    const { state, trouble, problem } = exchange
    if (this.names !== exchange.files.map((file) => file.name).join('\n')) this.drawFiles()
    this.note.textContent = exchange.note
    this.note.hidden = !exchange.note
    if (this.text.textContent !== exchange.text) this.text.textContent = exchange.text
    this.text.hidden = !exchange.text
    when(this.asked, exchange.at)
    const growing = state === 'answering' || (state === 'waiting' && Boolean(exchange.answer))
    this.shown.set(exchange.answer, growing)
    this.answer.classList.toggle('growing', growing && !trouble)
    this.answer.setAttribute('aria-busy', String(exchange.underWay))
    this.prose.hidden = !exchange.answer
    this.dots.hidden = state !== 'waiting' || Boolean(exchange.answer) || Boolean(trouble)
    this.cut.hidden = state !== 'done' || !exchange.cut
    const said = trouble ? trouble.trying : { queued: words.queued, elsewhere: words.elsewhere, stopped: words.stopped }[state]
    this.state.textContent = said ?? ''
    this.state.hidden = !said
    this.state.classList.toggle('trouble', Boolean(trouble))
    const failed = state === 'failed'
    this.problem.hidden = !failed
    this.why.textContent = failed ? (problem?.message ?? words.broken) : ''
    this.detail.textContent = failed ? (problem?.detail ?? '') : ''
    this.detail.hidden = !this.detail.textContent
    this.reference.textContent = failed && problem?.reference ? words.reference(problem.reference) : ''
    this.reference.hidden = !this.reference.textContent
    // Without its files it would be another question.
    const whole = exchange.files.every((file) => file.blob)
    this.retry.hidden = !whole || FOR_GOOD.includes(problem?.status)
    this.again.hidden = state !== 'stopped' || !whole
    this.copy.hidden = !exchange.answer
    this.foot.hidden = exchange.underWay || failed || state === 'elsewhere'
    when(this.answered, exchange.answeredAt)
  }
}

function button(text, name, act, sign) {
  const made = make('button', { type: 'button', class: name }, ...(sign ? [icon(sign)] : []), text)
  made.addEventListener('click', act)
  return made
}

/** An answer as it is read out: without the buttons in it. */
function spoken(prose) {
  return [...prose.children].map((block) => (block.querySelector(':scope > pre') ?? block).innerText).join('\n')
}

function when(element, date) {
  element.hidden = !date || Number.isNaN(date.getTime())
  if (element.hidden) return
  element.dateTime = date.toISOString()
  element.textContent = moment(date)
}

// --- all of them ------------------------------------------------------------------------------------------------

export class Log {
  #doing
  #views = new Map()
  #dirty = new Set()
  #told = new WeakMap() // what was last said of an exchange

  /** `doing`: what its buttons do, `retry(exchange)` and `edit(exchange)`. */
  constructor(doing) {
    this.#doing = doing
  }

  /** Shows these and no others, in this order. */
  show(exchanges) {
    const views = new Map()
    let before = null
    for (const exchange of exchanges) {
      const view = this.#views.get(exchange) ?? new View(exchange, this.#doing)
      if (this.#views.has(exchange)) view.draw()
      const place = before ? before.element.nextSibling : log.firstChild
      if (place !== view.element) log.insertBefore(view.element, place)
      views.set(exchange, view)
      before = view
    }
    for (const [exchange, view] of this.#views) if (!views.has(exchange)) view.element.remove()
    this.#views = views
  }

  has(exchange) {
    return this.#views.has(exchange)
  }

  /** Something changed in one of them. */
  changed(exchange) {
    const view = this.#views.get(exchange)
    if (!view) return
    if (!this.#dirty.size) requestAnimationFrame(() => this.#draw())
    this.#dirty.add(view)
    this.#tell(exchange, view)
  }

  #draw() {
    for (const view of this.#dirty) view.draw()
    this.#dirty.clear()
  }

  #tell(exchange, view) {
    const { state, trouble, problem } = exchange
    const now = trouble ? 'trouble' : state
    if (this.#told.get(exchange) === now) return
    this.#told.set(exchange, now)
    if (trouble) announce(trouble.trying)
    else if (state === 'waiting') announce(words.waiting)
    else if (state === 'stopped') announce(words.stopped)
    else if (state === 'failed') announce(problem?.message ?? words.broken)
    else if (state === 'done') {
      view.draw()
      announce([`perch: ${spoken(view.prose)}`, ...(exchange.cut ? [words.cut] : [])].join('\n'))
    }
  }
}

// --- copying ----------------------------------------------------------------------------------------------------

log.addEventListener('click', (event) => {
  const pressed = event.target.closest('figure .copy')
  if (pressed) copied(pressed, pressed.closest('figure').querySelector('code').textContent)
})

async function copied(pressed, text) {
  if (!(await copy(text))) return
  pressed.textContent = words.copied
  announce(words.copied)
  setTimeout(() => (pressed.textContent = words.copy), 2_000)
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text)
    return true
  } catch {
    // Without HTTPS there is no such clipboard, but this.
    const field = make('textarea', { class: 'unseen', 'aria-hidden': 'true' })
    field.value = text
    document.body.append(field)
    const focused = document.activeElement
    field.select()
    const done = document.execCommand('copy')
    field.remove()
    focused?.focus()
    return done
  }
}
