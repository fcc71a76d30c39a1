// The chat page. What was said is a list of turns, kept in this browser; each turn has one element, redrawn
// when its state changes. Text reaches the page through textContent alone.

const ANSWER_TIMEOUT = 120_000 // a model may think long, a lost connection must end
const RETRY_DELAYS = [300, 600, 1_200, 2_400, 4_000] // milliseconds; together longer than perch needs to come back
const TURNS_KEPT = 200

const byId = (id) => document.getElementById(id)
const log = byId('log')
const composer = byId('composer')
const input = byId('message')
const scroller = document.querySelector('main')

/** What perch, or the way to it, had against a message. */
class Problem extends Error {
  constructor(text, { passing = false, status = 0, reference = '', wait = 0 } = {}) {
    super(text)
    Object.assign(this, { passing, status, reference, wait })
  }
}

// --- what is kept over a reload ---------------------------------------------------------------------------------

// Storage may be full or forbidden; the page works without it and only forgets.
function keep(key, value) {
  try {
    localStorage.setItem(`perch.${key}`, JSON.stringify(value))
    return true
  } catch {
    return false
  }
}

function kept(key) {
  try {
    return JSON.parse(localStorage.getItem(`perch.${key}`))
  } catch {
    return null
  }
}

/**
 * `{conversation, turns}`; a turn is `{from: 'you' | 'perch' | 'page', text, state, problem}`, where the state of
 * what you said is 'waiting', 'answered' or 'failed'.
 */
function keptChat(key) {
  const chat = kept(key)
  if (!Array.isArray(chat?.turns)) return null
  for (const turn of chat.turns.filter((turn) => turn.state === 'waiting')) {
    turn.state = 'failed'
    turn.problem = { text: 'The conversation was left before the answer came.' }
  }
  return chat
}

function emptyChat() {
  return { conversation: null, turns: [] }
}

let chat = keptChat('chat') ?? emptyChat()
let leaving = new AbortController() // ends what is under way when another conversation is opened
let queue = Promise.resolve() // one message at a time, in the order they were written

// Where all of it doesn't fit, the newest half does, or a half of that.
function keepChat() {
  let last = TURNS_KEPT
  while (last >= 1 && !keep('chat', { ...chat, turns: chat.turns.slice(-last) })) last = Math.floor(last / 2)
}

// --- asking perch -----------------------------------------------------------------------------------------------

async function post(message, conversation, signal) {
  let response
  let body
  try {
    response = await fetch('/api/chat', {
      method: 'POST',
      headers: { 'content-type': 'application/json', accept: 'application/json, application/problem+json' },
      body: JSON.stringify(conversation ? { message, conversation } : { message }),
      signal: AbortSignal.any([signal, AbortSignal.timeout(ANSWER_TIMEOUT)]),
    })
    body = await response.text()
  } catch (error) {
    if (error.name === 'TimeoutError') throw new Problem('perch did not answer within two minutes.')
    if (signal.aborted) throw new Problem('This was stopped before the answer came.')
    throw new Problem('perch can’t be reached: it is stopped, or the network is down.', { passing: true })
  }
  let answer
  try {
    answer = JSON.parse(body)
  } catch {} // a proxy's page, for one; the status says enough
  if (response.ok && typeof answer?.reply === 'string') return answer
  if (response.ok) throw new Problem('What came back can’t be read.')
  throw new Problem(answer?.detail || answer?.title || `perch answered with an error (${response.status}).`, {
    passing: response.status === 503,
    status: response.status,
    reference: answer?.request_id,
    wait: Number(response.headers.get('retry-after')) * 1_000 || 0,
  })
}

/** Posts a message, again and again for a few seconds while perch can't be reached: it may just be restarting. */
async function ask(message, conversation, signal, onRetry) {
  for (const delay of RETRY_DELAYS) {
    try {
      return await post(message, conversation, signal)
    } catch (problem) {
      if (!problem.passing || signal.aborted) throw problem
      onRetry()
      const longest = RETRY_DELAYS.at(-1)
      await pause(Math.min(Math.max(delay, problem.wait), longest) * (0.75 + Math.random() / 2), signal)
    }
  }
  return post(message, conversation, signal)
}

function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds)
    signal.addEventListener('abort', () => (clearTimeout(timer), resolve()), { once: true })
  })
}

async function deliver(turn, into, signal) {
  if (signal.aborted) return
  const retrying = () => waitFor(turn, 'Can’t reach perch, trying again…')
  try {
    let answer
    try {
      answer = await ask(turn.text, into.conversation, signal, retrying)
    } catch (problem) {
      // perch may have forgotten the conversation (its state can be deleted at any time): go on in a new one.
      if (problem.status !== 404 || !into.conversation) throw problem
      into.conversation = null
      answer = await ask(turn.text, null, signal, retrying)
      add({ from: 'page', text: 'perch no longer remembers what was said above.' }, turn)
    }
    if (signal.aborted) return
    into.conversation = answer.conversation ?? into.conversation
    turn.state = 'answered'
    add({ from: 'perch', text: answer.reply }, nextOf(turn))
  } catch (problem) {
    if (signal.aborted) return
    turn.state = 'failed'
    turn.problem = { text: problem.message, reference: problem.reference }
  }
  draw(turn)
  keepChat()
}

function send(turn) {
  turn.state = 'waiting'
  delete turn.problem
  draw(turn)
  keepChat()
  const [into, signal] = [chat, leaving.signal]
  queue = queue.then(() => deliver(turn, into, signal)).finally(showWaiting)
  showWaiting()
}

// --- what is seen -----------------------------------------------------------------------------------------------

const elements = new WeakMap()

function nextOf(turn) {
  return chat.turns[chat.turns.indexOf(turn) + 1]
}

/** Puts a turn before another one, or at the end. */
function add(turn, before) {
  if (before) chat.turns.splice(chat.turns.indexOf(before), 0, turn)
  else chat.turns.push(turn)
  const element = byId(`from-${turn.from}`).content.firstElementChild.cloneNode(true)
  const text = element.matches('.text') ? element : element.querySelector('.text')
  text.textContent = turn.text
  elements.set(turn, element)
  log.insertBefore(element, before ? elements.get(before) : null)
  byId('welcome').hidden = true
  draw(turn)
}

function draw(turn) {
  if (turn.from !== 'you') return
  const element = elements.get(turn)
  const waiting = element.querySelector('.waiting')
  const problem = element.querySelector('.problem')
  waiting.hidden = turn.state !== 'waiting'
  problem.hidden = turn.state !== 'failed'
  if (turn.state === 'waiting') {
    waitFor(turn, '')
  } else if (turn.state === 'failed') {
    problem.querySelector('.why').textContent = turn.problem?.text ?? ''
    problem.querySelector('.reference').textContent = turn.problem?.reference ? `Request ${turn.problem.reference}` : ''
    problem.querySelector('.retry').onclick = () => (input.focus(), send(turn))
    problem.querySelector('.edit').onclick = () => edit(turn)
  }
}

function waitFor(turn, text) {
  const seen = elements.get(turn).querySelector('.waiting-for')
  seen.textContent = text || 'Waiting for perch'
  seen.classList.toggle('unseen', !text)
}

function showWaiting() {
  document.body.toggleAttribute('data-waiting', chat.turns.some((turn) => turn.state === 'waiting'))
}

function open(next) {
  leaving.abort()
  leaving = new AbortController()
  queue = Promise.resolve()
  chat = emptyChat()
  chat.conversation = next.conversation
  log.replaceChildren()
  byId('welcome').hidden = false
  byId('previous').hidden = !keptChat('previous')
  log.setAttribute('aria-busy', 'true') // what was said before is not news
  for (const turn of next.turns) add(turn)
  log.removeAttribute('aria-busy')
  showWaiting()
  toBottom()
}

// The newest turn stays in sight, whatever grows, unless somebody scrolled away from it.
let following = true
scroller.addEventListener('scroll', () => {
  following = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 80
})
const sizes = new ResizeObserver(() => following && toBottom())
sizes.observe(scroller)
sizes.observe(log)

function toBottom() {
  following = true
  scroller.scrollTop = scroller.scrollHeight
}

// --- writing ----------------------------------------------------------------------------------------------------

function write(text) {
  input.value = text
  keep('draft', text)
  grow()
}

function grow() {
  input.style.height = 'auto'
  input.style.height = `${input.scrollHeight}px`
}

/** Takes a failed message back into the composer, before what is being written there. */
function edit(turn) {
  write([turn.text, input.value].filter(Boolean).join('\n'))
  chat.turns.splice(chat.turns.indexOf(turn), 1)
  elements.get(turn).remove()
  byId('welcome').hidden = chat.turns.length > 0
  keepChat()
  input.focus()
}

composer.addEventListener('submit', (event) => {
  event.preventDefault()
  input.focus()
  const text = input.value.trimEnd()
  if (!text) return
  const turn = { from: 'you', text, state: 'waiting' }
  add(turn)
  send(turn)
  write('')
  toBottom()
})

const touch = matchMedia('(hover: none) and (pointer: coarse)')

input.addEventListener('keydown', (event) => {
  // 229 is the Enter that ends a composition in Safari, where isComposing is false already.
  const composing = event.isComposing || event.keyCode === 229
  if (event.key !== 'Enter' || event.shiftKey || composing || touch.matches) return
  event.preventDefault()
  composer.requestSubmit()
})

input.addEventListener('input', () => {
  keep('draft', input.value)
  grow()
})

byId('new').addEventListener('click', () => {
  if (chat.turns.length) keep('previous', chat)
  open(emptyChat())
  keepChat()
  input.focus()
})

byId('previous').addEventListener('click', () => {
  open(keptChat('previous') ?? emptyChat())
  keepChat()
  input.focus()
})

// Another tab said something; a tab that waits for an answer keeps its own view until it has it.
addEventListener('storage', (event) => {
  if (event.key === 'perch.chat' && !document.body.hasAttribute('data-waiting')) open(keptChat('chat') ?? emptyChat())
})

addEventListener('resize', grow)

open(chat)
write(kept('draft') ?? '')
if (!touch.matches) input.focus()
