// What the browser keeps: what was being written, and what was sent and has no answer yet. Storage may be full or
// forbidden; then the page works all the same, and forgets.

const UNSENT = 'perch.unsent'
const TAB = 'perch.tab'
const TOKEN = 'perch.token'

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
export const tab = read('sessionStorage', TAB) ?? randomToken()
write('sessionStorage', TAB, tab)

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

/** What is being written in a conversation; `null` stands for a new one. */
export const drafts = {
  get: (conversation) => read('localStorage', `perch.draft.${conversation ?? ''}`) ?? '',
  set: (conversation, text) => write('localStorage', `perch.draft.${conversation ?? ''}`, text),
}

/** Messages without a whole answer: `{key, conversation, text, files: [name], at, tab, failed}`. */
export const unsent = {
  all() {
    try {
      const list = JSON.parse(read('localStorage', UNSENT) ?? '[]')
      return Array.isArray(list) ? list.filter((one) => typeof one?.key === 'string' && typeof one.text === 'string') : []
    } catch {
      return []
    }
  },
  set(record) {
    this.drop(record.key, record)
  },
  drop(key, instead) {
    const list = this.all().filter((one) => one.key !== key)
    if (instead) list.push(instead)
    write('localStorage', UNSENT, list.length ? JSON.stringify(list) : null)
  },
}
