// A conversation: what was said, and the way of each message to its answer. Nothing here knows how it looks.

import { Problem, call, say } from './api.js'
import { ready } from './attachments.js'
import { openTabs, randomToken, tab, unsent } from './kept.js'
import { sentWith, shelf } from './shelf.js'
import { words } from './words.js'

const TRIES = 12 // together about two minutes: longer than a restart, a deploy or a train in a tunnel takes
const TRIES_WHERE_BUSY = 5 // perch is there and says no: seconds, then the person decides
const LONGEST_PAUSE = 15_000 // milliseconds, where perch asks for no longer one
const LONGEST_WAIT = 30_000 // milliseconds that perch may ask for; beyond, the person decides
const NEWEST = 5 // conversations in which the first message of a closed tab is looked for
const ASLEEP = 1_000 // milliseconds: a pause that was so much longer was a sleep, and what happened in it is heard in as many
const LOOK_AGAIN = 2_000 // milliseconds between looks at what another window is being answered

/**
 * A message and its answer. `state` is that of the answer: 'queued', 'waiting', 'answering', 'done', 'stopped',
 * 'failed', or 'elsewhere' while another window is being answered. `trouble` is why it is being tried again.
 */
class Exchange {
  constructor({ key = randomToken(), text, files = [], at = new Date(), state = 'queued' }) {
    Object.assign(this, { key, text, files, at, state })
    Object.assign(this, { answer: '', answeredAt: null, problem: null, trouble: null, taken: false, note: '', cut: false })
    this.handedOver = false // another tab has it now
  }

  get underWay() {
    return ['queued', 'waiting', 'answering'].includes(this.state)
  }
}

export class Conversation {
  /** `changed(conversation, exchange)` hears of all that happens; without an exchange it is the conversation itself. */
  constructor(id, changed) {
    Object.assign(this, { id, changed, title: '', exchanges: [], files: [] })
    this.state = id ? 'opening' : 'open' // or 'gone', 'failed'
    this.queue = Promise.resolve() // one message at a time, in the order they were written
    this.seen = '' // what perch said last that was here
  }

  get underWay() {
    return this.exchanges.find((exchange) => exchange.state === 'waiting' || exchange.state === 'answering')
  }

  get busy() {
    return this.exchanges.some((exchange) => exchange.underWay)
  }

  // --- what a person does ---------------------------------------------------------------------------------------

  say(text, files = []) {
    const exchange = new Exchange({ text, files })
    this.exchanges.push(exchange)
    this.#send(exchange)
    return exchange
  }

  /** The same message again: perch puts the new answer in the place of the one that was not finished. */
  retry(exchange) {
    if (!exchange.underWay) this.#send(exchange)
  }

  stop() {
    for (const exchange of this.exchanges.filter((one) => one.underWay)) {
      exchange.control?.abort(new Problem(words.stopped))
      if (exchange.state === 'queued') this.#end(exchange, 'stopped')
    }
  }

  /** It is deleted: nothing of it is kept here. */
  discard() {
    this.discarded = true
    this.stop()
  }

  /** Takes a message back that has no answer. */
  takeBack(exchange) {
    forget(exchange.key)
    if (!exchange.taken) this.exchanges = this.exchanges.filter((one) => one !== exchange)
    this.changed(this)
  }

  /** Another tab has taken these over, or done with them. What perch has heard of from here goes on here. */
  letGo(keys) {
    const gone = this.exchanges.filter(({ key, taken, state }) => keys.includes(key) && !taken && state !== 'done')
    if (!gone.length) return
    for (const exchange of gone) {
      exchange.handedOver = true
      if (exchange.state === 'queued') this.#end(exchange, 'failed')
      exchange.control?.abort(new Problem(words.unanswered))
    }
    // In a conversation that perch has it stands as before, and the answer comes below it.
    if (!this.id) this.exchanges = this.exchanges.filter((exchange) => !gone.includes(exchange))
    this.changed(this)
  }

  // --- the way of a message -------------------------------------------------------------------------------------

  #send(exchange) {
    Object.assign(exchange, { state: 'queued', problem: null, trouble: null, cut: false, handedOver: false })
    exchange.control = new AbortController()
    this.#keep(exchange)
    if (exchange.files.length) shelf.put(sentWith(exchange.key), exchange.files)
    this.changed(this, exchange)
    this.queue = this.queue.then(() => this.#deliver(exchange))
  }

  async #deliver(exchange) {
    const { signal } = exchange.control
    if (exchange.state !== 'queued') return
    exchange.state = 'waiting'
    this.changed(this, exchange)
    for (let tries = 1; ; tries += 1) {
      try {
        await this.#answer(exchange, signal)
        return this.#end(exchange, 'done')
      } catch (problem) {
        if (signal.aborted) return this.#end(exchange, 'stopped')
        if (problem.status === 404 && this.id) {
          // perch may have forgotten the conversation (its state can be deleted at any time): go on in a new one.
          this.id = null
          exchange.note = words.forgotten
          this.#keep(exchange)
          continue
        }
        const most = problem.lost ? TRIES : TRIES_WHERE_BUSY
        if (!problem.passing || problem.wait > LONGEST_WAIT || tries >= most) {
          exchange.problem = problem
          return this.#end(exchange, 'failed')
        }
        exchange.trouble = problem
        this.changed(this, exchange)
        const pause = Math.min(300 * 2 ** tries * (0.75 + Math.random() / 2), LONGEST_PAUSE)
        const due = Date.now() + Math.max(pause, problem.wait)
        await (problem.wait > pause ? waitFor(problem.wait, signal) : pauseFor(pause, signal))
        // A tab that slept is told first whether another one has the message now.
        if (Date.now() - due > ASLEEP) await waitFor(ASLEEP, signal)
      }
    }
  }

  async #answer(exchange, signal) {
    const before = exchange.answer
    let answer = ''
    for await (const { name, data } of say({ ...exchange, conversation: this.id }, signal)) {
      if (name === 'start' || name === 'done') {
        exchange.taken = true
        exchange.cut = data.finish === 'length'
        this.#named(data.conversation)
      } else if (name === 'delta') {
        answer += data.text
        Object.assign(exchange, { state: 'answering', trouble: null })
        // What is there already stays until the new answer is past it, or is another.
        exchange.answer = before.startsWith(answer) ? before : answer
      }
      this.changed(this, exchange)
    }
    exchange.answer = answer
  }

  #named(id) {
    if (!id || id === this.id) return
    const before = this.id
    this.id = id
    for (const exchange of this.exchanges.filter((one) => one.underWay)) this.#keep(exchange)
    this.changed(this, null, before)
  }

  #end(exchange, state) {
    Object.assign(exchange, { state, trouble: null, answeredAt: new Date() })
    if (exchange.handedOver && state !== 'done') {
      Object.assign(exchange, { state: 'failed', problem: new Problem(words.unanswered) })
    } else if (state === 'done' || (state === 'stopped' && exchange.taken)) forget(exchange.key)
    else this.#keep(exchange, state)
    this.changed(this, exchange)
  }

  #keep({ key, text, files, at }, ended) {
    if (this.discarded) return
    const names = files.map((file) => file.name)
    unsent.set({ key, conversation: this.id, text, files: names, at: at.toISOString(), tab, ended })
  }

  // --- what perch has -------------------------------------------------------------------------------------------

  /** Brings here what perch has of it. What is on its way from here stays as it is. */
  async open() {
    if (!this.id) {
      await this.#adopt()
      return this.changed(this)
    }
    try {
      const said = await call(`/api/conversations/${encodeURIComponent(this.id)}`)
      const seen = JSON.stringify(said)
      const news = seen !== this.seen
      this.seen = seen
      this.state = 'open'
      if (news) {
        this.title = said.title
        this.#merge(said.messages)
      }
      await this.#adopt()
      this.changed(this)
    } catch (problem) {
      if (problem.status !== 404 && this.state === 'open') return undefined // what is here is still good
      this.state = problem.status === 404 ? 'gone' : 'failed'
      this.problem = problem
      // perch may keep no conversations: what was said here is all there is.
      if (this.exchanges.length) this.state = 'open'
      await this.#adopt()
      this.changed(this)
    }
    return undefined
  }

  #merge(messages) {
    const ours = new Map(this.exchanges.map((exchange) => [exchange.key, exchange]))
    const merged = []
    for (const message of messages) {
      if (message.from === 'you') {
        const known = message.key && ours.get(message.key)
        const exchange =
          known ??
          new Exchange({
            key: message.key,
            text: message.text,
            files: message.attachments ?? [],
            at: new Date(message.at),
            state: 'failed',
          })
        ours.delete(exchange.key)
        exchange.taken = true
        exchange.fresh = !exchange.underWay
        if (exchange.fresh && exchange.state !== 'done') exchange.problem ??= new Problem(words.broken)
        merged.push(exchange)
      } else if (merged.at(-1)?.fresh) {
        const exchange = merged.at(-1)
        const state = { stopped: 'stopped', failed: 'failed', answering: 'elsewhere' }[message.state] ?? 'done'
        exchange.answer = message.text ?? ''
        exchange.cut = message.finish === 'length'
        exchange.answeredAt = new Date(message.at)
        exchange.state = state
        if (state === 'failed') exchange.problem ??= new Problem(words.broken)
        else exchange.problem = null
        if (state === 'done') forget(exchange.key)
      }
    }
    // What perch has not heard of yet, or was never told.
    this.exchanges = [...merged, ...[...ours.values()].filter((exchange) => exchange.state !== 'done' || !exchange.taken)]
    clearTimeout(this.look)
    if (merged.some((exchange) => exchange.state === 'elsewhere')) {
      this.look = setTimeout(() => this.open(), LOOK_AGAIN)
    }
  }

  /** Goes on with what this tab had sent when it was left, and offers what another one could not send. */
  async #adopt() {
    const here = () => unsent.all().filter(({ conversation }) => conversation === this.id)
    const foreign = here().filter((record) => record.tab !== tab)
    const open = foreign.length ? await openTabs() : new Set()
    const left = foreign.filter((record) => !open.has(record.tab))
    const arrived = !this.id && left.length ? await newestKeys() : new Set()
    const found = new Map()
    for (const { key, files } of here()) {
      if (files?.length) found.set(key, (await shelf.at(sentWith(key))).map(ready))
    }
    for (const record of here()) {
      const known = this.exchanges.find((exchange) => exchange.key === record.key)
      if (known?.underWay || known?.state === 'done') continue
      const own = record.tab === tab
      // Two tabs with a new conversation each have two; one that perch has is the same in both.
      const closed = left.some(({ key, tab: name }) => key === record.key && name === record.tab)
      if (!own && !closed && !(record.ended && this.id)) continue
      if (!own && (known?.taken || arrived.has(record.key))) {
        forget(record.key) // perch has it, and says how it went
        if (!known) continue
      } else if (closed) unsent.set({ ...record, tab, ended: record.ended ?? 'failed' })
      const { key, text, at } = record
      const exchange = known ?? new Exchange({ key, text, files: [], at: new Date(at), state: record.ended ?? 'failed' })
      if (!known) this.exchanges.push(exchange)
      const missing = record.files?.length > 0 && !exchange.files.some((file) => file.blob)
      const files = found.get(record.key) ?? []
      if (missing && files.length) exchange.files = files
      if (missing && !files.length) {
        exchange.files = record.files.map((name) => ({ name }))
        Object.assign(exchange, { state: 'failed', problem: new Problem(words.filesLost), filesLost: true })
      } else if (own && !record.ended) {
        this.#send(exchange)
      } else if (exchange.state === 'failed') {
        exchange.problem ??= new Problem(words.unanswered)
      }
    }
  }
}

/** Nothing of the message needs to be sent any more. */
export function forget(key) {
  unsent.drop(key)
  shelf.drop(sentWith(key))
}

/** The keys of what was said last, as far as perch can be asked. What is missed is answered once all the same. */
async function newestKeys() {
  const keys = new Set()
  try {
    const { conversations } = await call('/api/conversations')
    for (const { id } of conversations.slice(0, NEWEST)) {
      const { messages } = await call(`/api/conversations/${encodeURIComponent(id)}`)
      for (const { key } of messages) if (key) keys.add(key)
    }
  } catch {} // see above
  return keys
}

/** Waits, unless the signal comes. */
function waitFor(milliseconds, ...signals) {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer)
      for (const signal of signals) signal.removeEventListener('abort', done)
      resolve()
    }
    const timer = setTimeout(done, milliseconds)
    for (const signal of signals) signal.addEventListener('abort', done)
  })
}

/** The same; the network coming back ends it sooner. */
async function pauseFor(milliseconds, signal) {
  const back = new AbortController()
  const online = () => back.abort()
  addEventListener('online', online)
  await waitFor(milliseconds, signal, back.signal)
  removeEventListener('online', online)
}
