// What the browser keeps: what was being written, and what was sent and has no answer yet. Storage may be full or
// forbidden; then the page works all the same, and forgets.

const UNSENT = 'perch.unsent'
const TAB = 'perch.tab'
const TOKEN = 'perch.token'
const ROLL_CALL = 300 // milliseconds in which a tab that is open says so

function read(storage, key) {
  try {
    return window[storage].getItem(key)
  } catch {
    return null
  }
}

function write(storage, key, value) {
  try {
    if (value) window[storage].setItem(key, value)
    else window[storage].removeItem(key)
  } catch {} // see above
}

/** Whoever signs out leaves nothing for the next one. */
export function forgetEverything() {
  for (const storage of ['localStorage', 'sessionStorage']) {
    try {
      for (const key of Object.keys(window[storage])) if (key.startsWith('perch.')) write(storage, key, null)
    } catch {} // see above
  }
}

export function randomToken() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('')
}

/** Of this tab, over a reload as well. */
export let tab = read('sessionStorage', TAB) ?? randomToken()
write('sessionStorage', TAB, tab)

// The copy of a tab has its name as well, until the first one says so.
const page = randomToken()
const tabs = 'BroadcastChannel' in window ? new BroadcastChannel('perch.tabs') : null
tabs?.addEventListener('message', ({ data: { name, asked, copy, rollCall } }) => {
  if (rollCall) tabs.postMessage({ here: tab })
  if (name !== tab) return
  if (asked) tabs.postMessage({ name, copy: asked })
  else if (copy === page) {
    tab = randomToken()
    write('sessionStorage', TAB, tab)
    for (const [conversation, text] of written) drafts.set(conversation, text)
  }
})
tabs?.postMessage({ name: tab, asked: page })

/** The names of the other tabs that are open. One that sleeps is not among them, and hears later what became of it. */
export async function openTabs() {
  const names = new Set()
  const hear = ({ data: { here } }) => here && names.add(here)
  tabs?.addEventListener('message', hear)
  tabs?.postMessage({ rollCall: true })
  await new Promise((resolve) => setTimeout(resolve, ROLL_CALL))
  tabs?.removeEventListener('message', hear)
  return names
}

/** An API key or token: kept once it was accepted, and no longer than the tab. */
let kept = read('sessionStorage', TOKEN)
let given = kept
export const token = {
  get: () => given,
  isKept: (value) => value === kept,
  try(value) {
    given = value
  },
  keep(value) {
    if (value !== given || value === kept) return
    kept = value
    write('sessionStorage', TOKEN, value)
  },
  drop() {
    kept = given = null
    write('sessionStorage', TOKEN, null)
  },
}

// --- drafts -----------------------------------------------------------------------------------------------------

// What is being written belongs to a tab, as two may be open on one conversation. A tab that has nothing of its own
// takes what another one has left behind. Whether that one is closed nobody can say for sure: where it is not, it hears
// of it and keeps what it has as well, or finds it in its own storage when it wakes up.

const DRAFT = 'perch.draft.'
const written = new Map() // by conversation: what is being written here
const open = new Set() // other tabs that were heard of

const ownKey = (conversation) => `${DRAFT}${conversation ?? ''}`
const sharedKey = (conversation) => `${ownKey(conversation)}.${tab}`

/** What all tabs have of a conversation, the newest first: `{key, from, text, at}`. */
function draftsOf(conversation) {
  try {
    const begin = `${ownKey(conversation)}.`
    return Object.keys(window.localStorage)
      .filter((key) => key.startsWith(begin))
      .map((key) => ({ key, from: key.slice(begin.length), ...JSON.parse(read('localStorage', key)) }))
      .sort((a, b) => b.at - a.at)
  } catch {
    return []
  }
}

/** What is being written in a conversation; `null` stands for a new one. */
export const drafts = {
  get(conversation) {
    const own = read('sessionStorage', ownKey(conversation))
    if (own) return own
    const left = draftsOf(conversation).filter(({ from }) => from !== tab && !open.has(from))
    if (!left.length) return ''
    const [{ text: newest }] = left
    drafts.set(conversation, newest)
    for (const { key, text } of left) if (text === newest) write('localStorage', key, null)
    return newest
  },
  set(conversation, text) {
    if (text) written.set(conversation ?? '', text)
    else written.delete(conversation ?? '')
    write('sessionStorage', ownKey(conversation), text)
    write('localStorage', sharedKey(conversation), text && JSON.stringify({ text, at: Date.now() }))
  },
  /** The conversation is gone, and all that any tab was writing in it. */
  drop(conversation) {
    drafts.set(conversation, '')
    for (const { key } of draftsOf(conversation)) write('localStorage', key, null)
  },
}

addEventListener('storage', ({ key, newValue }) => {
  if (!key?.startsWith(DRAFT)) return
  const dot = key.lastIndexOf('.')
  const [conversation, from] = [key.slice(DRAFT.length, dot), key.slice(dot + 1)]
  if (from !== tab) {
    if (newValue) open.add(from)
  } else if (!newValue && draftsOf(conversation).some(({ text }) => text === written.get(conversation))) {
    drafts.set(conversation, written.get(conversation)) // it was taken, and not deleted
  }
})

// --- what was sent ----------------------------------------------------------------------------------------------

// A message belongs to the tab that sends it. When that one is gone, the next that looks takes it over. One that only
// slept hears of it, and lets go.

function messagesIn(written) {
  try {
    const list = JSON.parse(written ?? '[]')
    return Array.isArray(list) ? list.filter((one) => typeof one?.key === 'string' && typeof one.text === 'string') : []
  } catch {
    return []
  }
}

/** Messages without a whole answer: `{key, conversation, text, files: [name], at, tab, ended}`. */
export const unsent = {
  all: () => messagesIn(read('localStorage', UNSENT)),
  set(record) {
    this.drop(record.key, record)
  },
  drop(key, instead) {
    const list = this.all().filter((one) => one.key !== key)
    if (instead) list.push(instead)
    write('localStorage', UNSENT, list.length ? JSON.stringify(list) : null)
  },
}

/** `heard(keys)` is told which messages another tab has taken over, or done with. */
export function onUnsentElsewhere(heard) {
  addEventListener('storage', ({ key, oldValue }) => {
    if (key !== UNSENT) return
    // As it is now: of two that take one at the same time the last has it.
    const owners = new Map(unsent.all().map((one) => [one.key, one.tab]))
    const moved = messagesIn(oldValue).filter((one) => ![one.tab, tab].includes(owners.get(one.key)))
    if (moved.length) heard(moved.map((one) => one.key))
  })
}
