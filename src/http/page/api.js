// Asking perch: what is sent, what comes back, and what it means when that goes wrong.

import { token } from './kept.js'
import { inSeconds, language, words } from './words.js'

const PATIENCE = 30_000 // milliseconds until something comes back; perch needs a few at most
const PATIENCE_WITH_FILES = 300_000 // four files of 5 MiB over a slow line
const SILENCE = 45_000 // perch says every 15 s that it is still there

/**
 * What perch, or the way to it, had against a request. `passing`: the same may do in a moment, or after `wait`
 * milliseconds where that is known; before, it is no use.
 */
export class Problem extends Error {
  constructor(reason, { passing = false, lost = false, status = 0, detail = '', reference = '', wait = 0 } = {}) {
    super(wait ? joined(reason, words.after(inSeconds(wait / 1_000))) : reason)
    Object.assign(this, { reason, passing, lost, status, detail, reference, wait })
  }

  /** The same while the page is trying again by itself. */
  get trying() {
    if (this.lost) return words.lost
    return this.wait ? joined(this.reason, words.trying(inSeconds(this.wait / 1_000))) : this.message
  }

  /** From a problem of RFC 9457, or what a proxy says in its place. */
  static from(said, status, retryAfter) {
    const seconds = Number(said?.retry_after ?? retryAfter)
    const wait = seconds > 0 && Number.isFinite(seconds) ? seconds * 1_000 : 0
    const known = words.problems[status] ?? words.problem(status)
    const detail = said?.detail || said?.title || ''
    // perch says when to try again as well; once is enough.
    const reason = wait ? detail.replace(/[;,] try again\b[^;,]*$/i, '') : detail
    return new Problem(language === 'en' && reason ? sentence(reason) : known, {
      // A proxy that stands before perch says 502 or 504 while perch is away.
      passing: status === 503 || (!said && (status === 502 || status === 504)),
      status,
      detail: language === 'en' ? '' : detail,
      reference: said?.request_id ?? '',
      wait,
    })
  }

  /** The connection is gone: perch may be back in a moment. */
  static lost() {
    return new Problem(words.unreachable, { passing: true, lost: true })
  }
}

function joined(...sentences) {
  return sentences.join(language === 'ja' ? '' : ' ')
}

function sentence(text) {
  return text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? '' : '.')
}

/**
 * Asks the person for a key or token in place of the one that was `refused`, with a `problem` if there is more to say, and
 * resolves when there is one; set by whoever has the page.
 */
let signIn = () => Promise.reject(new Problem(words.problem(401), { status: 401 }))
export function onSignIn(ask) {
  signIn = ask
}

/** A signal that comes after so many milliseconds without `again()`. */
function watch(milliseconds, outer) {
  const control = new AbortController()
  const late = () => control.abort(new Problem(words.silent, { passing: true, lost: true }))
  let timer = setTimeout(late, milliseconds)
  const again = (next) => {
    hold()
    timer = setTimeout(late, next)
  }
  const hold = () => clearTimeout(timer)
  const end = () => {
    hold()
    outer?.removeEventListener('abort', stop)
  }
  const stop = () => control.abort(outer.reason)
  if (outer?.aborted) stop()
  outer?.addEventListener('abort', stop)
  return { signal: control.signal, again, hold, end }
}

/** Fails when the signal comes. */
function ended(signal) {
  return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason), { once: true }))
}

async function ask(path, { method = 'GET', headers = {}, body, keepalive }, watched) {
  for (;;) {
    const used = token.get()
    let response
    try {
      response = await fetch(path, {
        method,
        body,
        keepalive,
        signal: watched.signal,
        headers: used ? { ...headers, authorization: `Bearer ${used}` } : headers,
      })
    } catch {
      throw watched.signal.aborted ? watched.signal.reason : Problem.lost()
    }
    if (response.ok) {
      token.keep(used)
      return response
    }
    let problem = null
    if (response.status !== 401) {
      let said
      try {
        said = await response.json()
      } catch {} // a proxy's page, for one; the status says enough
      problem = Problem.from(said, response.status, response.headers.get('retry-after'))
      // After many wrong ones no other is looked at for a while.
      if (response.status !== 429 || token.isKept(used)) throw problem
    }
    watched.hold()
    await Promise.race([signIn(used, problem), ended(watched.signal)])
    watched.again(PATIENCE)
  }
}

/** One request whose answer is JSON, or nothing; `as` reads another kind. */
export async function call(path, { as = 'json', signal, ...request } = {}) {
  const watched = watch(PATIENCE, signal)
  try {
    const response = await ask(path, request, watched)
    if (response.status === 204) return null
    try {
      return await response[as]()
    } catch {
      throw watched.signal.aborted ? watched.signal.reason : new Problem(words.unreadable)
    }
  } finally {
    watched.end()
  }
}

/** Says `text` with `files`, and yields what comes: `{name, data}` of `start`, `delta` and `done`. */
export async function* say({ text, files, conversation, key }, signal) {
  const headers = { accept: 'text/event-stream, application/problem+json', 'idempotency-key': key }
  let body
  if (files.length) {
    body = new FormData()
    body.append('message', text)
    if (conversation) body.append('conversation', conversation)
    for (const { blob, name } of files) body.append('file', blob, name)
  } else {
    headers['content-type'] = 'application/json'
    body = JSON.stringify(conversation ? { message: text, conversation } : { message: text })
  }
  const watched = watch(files.length ? PATIENCE_WITH_FILES : PATIENCE, signal)
  try {
    const response = await ask('/api/chat', { method: 'POST', headers, body }, watched)
    for await (const event of events(response, watched)) {
      if (event.name === 'error') throw Problem.from(event.data, event.data.status ?? 500)
      yield event
      if (event.name === 'done') return
    }
    throw Problem.lost()
  } finally {
    watched.end()
  }
}

/** Server-sent events, as the HTML standard parses them; the data of all of ours is JSON. */
async function* events(response, watched) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
  let rest = ''
  try {
    for (;;) {
      watched.again(SILENCE)
      let chunk
      try {
        chunk = await reader.read()
      } catch {
        throw watched.signal.aborted ? watched.signal.reason : Problem.lost()
      }
      if (chunk.done) return
      const blocks = (rest + chunk.value).split(/\r?\n\r?\n/)
      rest = blocks.pop()
      for (const block of blocks) {
        const event = parse(block)
        if (event) yield event
      }
    }
  } finally {
    reader.cancel().catch(() => {}) // it may have ended by itself
  }
}

function parse(block) {
  let name = 'message'
  const data = []
  for (const line of block.split(/\r?\n/)) {
    if (line.startsWith('event:')) name = line.slice(6).trim()
    else if (line.startsWith('data:')) data.push(line.slice(5).replace(/^ /, ''))
  }
  if (!data.length) return null
  try {
    return { name, data: JSON.parse(data.join('\n')) }
  } catch {
    throw new Problem(words.unreadable)
  }
}
