// The chat page: which conversation is open, the list of them, and what is being written.

import { ACCEPT, chip, choose, ready } from './attachments.js'
import { call, onSignIn } from './api.js'
import { Conversation, forget as forgetMessage } from './conversation.js'
import { byId, icon, make } from './dom.js'
import { drafts, forgetEverything, onUnsentElsewhere, token, unsent } from './kept.js'
import { Log, announce, toLatest } from './log.js'
import { attachedIn, shelf } from './shelf.js'
import { period, translate, words } from './words.js'

translate()

const input = byId('message')
const composer = byId('composer')
const log = new Log({ retry, edit })
// A touch keyboard has no Shift+Enter: there Enter is a new line and the button sends.
const touch = matchMedia('(hover: none) and (pointer: coarse)')

// --- which conversation is open ---------------------------------------------------------------------------------

const conversations = new Map() // by id, those that were open: an answer goes on while another one is read
let current

function conversationOf(id) {
  const known = conversations.get(id)
  if (known) return known
  const made = new Conversation(id, changed)
  if (id) conversations.set(id, made)
  return made
}

function idInAddress() {
  try {
    return decodeURIComponent(location.hash.slice(1)) || null
  } catch {
    return null
  }
}

function open(id) {
  if (current && current.id === id && id) return
  current = conversationOf(id)
  write(drafts.get(id))
  refuse([])
  show()
  toLatest()
  drawAttached()
  restore(current)
  current.open()
  drawList()
}

/** Something happened in a conversation. It has an id now where `before` is what it was called until then. */
function changed(conversation, exchange, before) {
  if (before !== undefined) {
    conversations.set(conversation.id, conversation)
    list.begin(conversation)
    if (conversation === current) {
      drafts.set(conversation.id, input.value)
      drafts.set(before, '')
      keepAttached(conversation)
      shelf.drop(attachedIn(before))
      history.replaceState(null, '', `#${conversation.id}`)
    }
  }
  if (conversation === current) {
    if (!exchange || !log.has(exchange)) show()
    else log.changed(exchange)
    drawDoing()
  }
  tellOthers(conversation, exchange)
  const ended = exchange && !exchange.underWay
  if (ended) list.refresh()
  else if (before !== undefined || exchange?.state === 'waiting') drawList()
}

function show() {
  const { exchanges, state } = current
  log.show(exchanges)
  byId('welcome').hidden = exchanges.length > 0 && state !== 'failed'
  byId('greeting').textContent = { gone: words.gone, failed: words.notOpened, opening: '' }[state] ?? words.welcome
  byId('open-retry').hidden = state !== 'failed'
  const title = list.titleOf(current.id) || current.title
  document.title = title ? `${title} · perch` : 'perch'
  byId('welcome').classList.toggle('opening', state === 'opening')
  drawDoing()
}

addEventListener('hashchange', () => {
  open(idInAddress())
  drawer.close()
})
byId('open-retry').addEventListener('click', () => {
  input.focus()
  current.open()
})

function begin() {
  if (location.hash) history.pushState(null, '', location.pathname)
  current = null
  open(null)
  drawer.close()
  input.focus()
}
byId('new').addEventListener('click', begin)

// --- other tabs -------------------------------------------------------------------------------------------------

const others = 'BroadcastChannel' in window ? new BroadcastChannel('perch') : null
const told = new WeakMap() // the state of which the others know

function tellOthers({ id }, exchange) {
  if (!id || !exchange || !['answering', 'done', 'stopped', 'failed'].includes(exchange.state)) return
  if (told.get(exchange) === exchange.state) return
  told.set(exchange, exchange.state)
  others?.postMessage({ said: id })
}

others?.addEventListener('message', ({ data: { said, deleted } }) => {
  if (deleted) heardOfDeletion(deleted)
  else if (document.visibilityState === 'visible') {
    list.refresh()
    if (current.id === said && !current.busy) current.open()
  }
})

onUnsentElsewhere((keys) => {
  for (const conversation of new Set([...conversations.values(), current])) conversation.letGo(keys)
})

/** What is being written stays; what was said is gone. */
function heardOfDeletion(ids) {
  const typed = input.value
  for (const id of ids) forget(id)
  list.entries = list.entries.filter(({ id }) => !ids.includes(id))
  const { id } = current
  if (ids.includes(id)) {
    current = null
    open(id)
    write(typed)
  }
  drawList()
}

// --- what is being written --------------------------------------------------------------------------------------

function write(text) {
  input.value = text
  drafts.set(current.id, text)
  grow()
  drawDoing()
}

function grow() {
  input.style.height = 'auto'
  input.style.height = `${input.scrollHeight}px`
}

/** Send, Stop, or both. */
function drawDoing() {
  const { underWay } = current
  const something = input.value.trim() || current.files.length
  byId('stop').hidden = !underWay
  byId('send').hidden = Boolean(underWay && !something)
  byId('send').classList.toggle('idle', !something)
  document.body.classList.toggle('answering', Boolean(underWay))
}

composer.addEventListener('submit', (event) => {
  event.preventDefault()
  input.focus()
  const text = input.value.trim() && input.value.trimEnd()
  if (!text && !current.files.length) return
  const { files, id } = current
  current.files = []
  write('')
  refuse([])
  drawAttached()
  if (current.state === 'gone') begin()
  current.say(text, files)
  shelf.drop(attachedIn(id))
  toLatest()
})

input.addEventListener('keydown', (event) => {
  // 229 is the Enter that ends a composition in Safari, where isComposing is false already.
  const composing = event.isComposing || event.keyCode === 229
  if (composing) return
  if (event.key === 'Escape' && current.underWay) stop()
  if (event.key !== 'Enter' || event.shiftKey || touch.matches) return
  event.preventDefault()
  composer.requestSubmit()
})
input.addEventListener('input', () => {
  drafts.set(current.id, input.value)
  grow()
  drawDoing()
})
addEventListener('resize', grow)
byId('skip').addEventListener('click', (event) => {
  event.preventDefault()
  input.focus()
})

function stop() {
  current.stop()
  input.focus()
}
byId('stop').addEventListener('click', stop)

function retry(exchange) {
  input.focus()
  current.retry(exchange)
}

/** Takes a message that has no answer back to where it was written, before what is being written there. */
function edit(exchange) {
  write([exchange.text, input.value].filter(Boolean).join('\n'))
  current.files.push(...exchange.files.filter((file) => file.blob))
  keepAttached(current)
  drawAttached()
  current.takeBack(exchange)
  input.focus()
}

// --- files ------------------------------------------------------------------------------------------------------

const chooser = byId('files')
chooser.accept = ACCEPT

async function attach(files) {
  const into = current
  const { taken, refused } = await choose(files, into.files)
  into.files.push(...taken)
  keepAttached(into)
  if (into !== current) return
  refuse(refused)
  drawAttached()
  input.focus()
}

function keepAttached({ id, files }) {
  shelf.put(attachedIn(id), files)
}

/** Brings back what was attached before the page was left. */
async function restore(conversation) {
  if (conversation.restored) return
  conversation.restored = true
  const files = await shelf.at(attachedIn(conversation.id))
  if (!files.length || conversation.files.length) return
  conversation.files = files.map(ready)
  if (conversation === current) drawAttached()
}

function drawAttached() {
  const attached = byId('attached')
  const { files } = current
  attached.hidden = !files.length
  attached.replaceChildren(
    ...files.map((file) =>
      chip(file, () => {
        current.files = current.files.filter((one) => one !== file)
        keepAttached(current)
        if (file.picture) URL.revokeObjectURL(file.picture)
        refuse([])
        drawAttached()
        input.focus()
      }),
    ),
  )
  drawDoing()
}

function refuse(sentences) {
  byId('refused').hidden = !sentences.length
  byId('refusals').replaceChildren(...sentences.map((sentence) => make('p', {}, sentence)))
}
byId('dismiss').addEventListener('click', () => {
  refuse([])
  input.focus()
})

byId('attach').addEventListener('click', () => chooser.click())
chooser.addEventListener('change', () => {
  attach([...chooser.files])
  chooser.value = ''
})
input.addEventListener('paste', (event) => {
  const { files, types } = event.clipboardData
  // What comes from a table has its picture along; its text is meant.
  if (!files.length || types.includes('text/plain')) return
  event.preventDefault()
  attach([...files])
})

const brings = (event) => event.dataTransfer?.types.includes('Files')
addEventListener('dragover', (event) => {
  if (!brings(event)) return
  event.preventDefault()
  byId('drop').hidden = false
})
addEventListener('dragleave', (event) => {
  if (!event.relatedTarget) byId('drop').hidden = true
})
addEventListener('drop', (event) => {
  byId('drop').hidden = true
  if (!brings(event)) return
  event.preventDefault()
  attach([...event.dataTransfer.files])
})

// --- the list of conversations ----------------------------------------------------------------------------------

const list = {
  entries: [],
  next: null,
  state: 'unknown', // 'there', 'failed', or 'none' where perch keeps no conversations

  titleOf: (id) => list.entries.find((entry) => entry.id === id)?.title,

  /** A conversation that perch tells of only once something was answered in it. */
  begin({ id, exchanges }) {
    const title = exchanges[0].text.trim().split('\n')[0].slice(0, 80) || exchanges[0].files[0]?.name
    list.entries.unshift({ id, title, updated: new Date().toISOString() })
  },

  /** Reads the newest ones again; what is further down stays. */
  async refresh() {
    try {
      const { conversations: newest, next } = await call('/api/conversations')
      const oldest = newest.at(-1)?.updated
      const known = new Set(newest.map(({ id }) => id))
      const older = next ? list.entries.filter(({ id, updated }) => !known.has(id) && updated < oldest && !conversations.get(id)?.busy) : []
      const begun = list.entries.filter(({ id }) => !known.has(id) && conversations.get(id)?.busy)
      list.entries = [...begun, ...newest, ...older]
      if (!older.length) list.next = next ?? null
      list.state = 'there'
    } catch (problem) {
      list.state = problem.status === 404 ? 'none' : 'failed'
    }
    drawList()
    show()
  },

  async older() {
    try {
      const { conversations: older, next } = await call(`/api/conversations?after=${encodeURIComponent(list.next)}`)
      const known = new Set(list.entries.map(({ id }) => id))
      list.entries.push(...older.filter(({ id }) => !known.has(id)))
      list.next = next ?? null
    } catch {
      list.state = 'failed'
    }
    drawList()
  },
}

function drawList() {
  const { entries, state } = list
  const groups = new Map()
  for (const entry of entries) {
    const name = period(new Date(entry.updated))
    groups.set(name, [...(groups.get(name) ?? []), entry])
  }
  const focused = document.activeElement?.closest?.('#list li')?.dataset.id
  const what = document.activeElement?.className
  byId('list').replaceChildren(
    ...[...groups].map(([name, members]) => {
      const items = make('ul', { 'aria-label': name }, ...members.map(listItem))
      return make('section', {}, make('h2', {}, name), items)
    }),
  )
  if (focused) byId('list').querySelector(`[data-id="${CSS.escape(focused)}"] .${what}`)?.focus()
  const says = { failed: words.noList, there: entries.length ? '' : words.noConversations }[state] ?? ''
  byId('list-says').textContent = says
  byId('list-says').hidden = !says
  byId('list-retry').hidden = state !== 'failed'
  byId('more').hidden = !list.next || state !== 'there'
  byId('export').hidden = byId('delete-all').hidden = !entries.length
  byId('sign-out').hidden = !token.get()
}

function listItem({ id, title }) {
  const here = current?.id === id
  const link = make('a', { class: 'title', href: `#${id}`, 'aria-current': here ? 'page' : null, dir: 'auto' }, title)
  if (conversations.get(id)?.busy) link.append(make('span', { class: 'busy', role: 'img', 'aria-label': words.underWay }))
  const bin = make('button', { type: 'button', class: 'bin', 'aria-label': words.remove1(title) }, icon('bin'))
  bin.addEventListener('click', () => remove(id, title))
  return make('li', { 'data-id': id }, link, bin)
}

async function remove(id, title) {
  if (!(await confirmed(words.confirm1, title))) return
  conversations.get(id)?.stop()
  const place = list.entries.findIndex((entry) => entry.id === id)
  await deletes(`/api/conversations/${encodeURIComponent(id)}`, () => {
    forget(id)
    others?.postMessage({ deleted: [id] })
    list.entries = list.entries.filter((entry) => entry.id !== id)
    if (current.id === id) begin()
    drawList()
    const links = byId('list').querySelectorAll('.title')
    ;(links[Math.min(place, links.length - 1)] ?? input).focus()
  })
}

byId('delete-all').addEventListener('click', async () => {
  if (!(await confirmed(() => words.confirmAll))) return
  for (const conversation of conversations.values()) conversation.stop()
  await deletes('/api/conversations', () => {
    const ids = [...conversations.keys(), ...list.entries.map((entry) => entry.id)]
    ids.forEach(forget)
    others?.postMessage({ deleted: ids })
    Object.assign(list, { entries: [], next: null })
    begin()
    drawList()
  })
})

function forget(id) {
  conversations.get(id)?.discard()
  conversations.delete(id)
  drafts.drop(id)
  shelf.forget(id)
  for (const { key, conversation } of unsent.all()) if (conversation === id) forgetMessage(key)
}

async function deletes(path, then) {
  try {
    await call(path, { method: 'DELETE' })
  } catch (problem) {
    // Somebody did it already.
    if (problem.status !== 404) {
      refuse([words.notDeleted, problem.message])
      return
    }
  }
  then()
  announce(words.deleted)
}

/** Asks once more; `about` goes where the question has a gap, in whatever direction it is written. */
function confirmed(question, about = '') {
  const dialog = byId('confirm')
  const [before, after = ''] = question('\0').split('\0')
  byId('confirm-what').replaceChildren(before, make('bdi', {}, about), after)
  dialog.showModal()
  byId('confirm-no').focus()
  return new Promise((resolve) => {
    let yes = false
    byId('confirm-yes').onclick = () => {
      yes = true
      dialog.close()
    }
    byId('confirm-no').onclick = () => dialog.close()
    dialog.onclose = () => resolve(yes)
  })
}

byId('export').addEventListener('click', async () => {
  try {
    const blob = await call('/api/export', { as: 'blob' })
    const link = make('a', { href: URL.createObjectURL(blob), download: 'perch.json' })
    link.click()
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000)
  } catch (problem) {
    refuse([words.notExported, problem.message])
  }
})
byId('more').addEventListener('click', () => list.older())
byId('list-retry').addEventListener('click', () => list.refresh())

// --- the list on a narrow screen --------------------------------------------------------------------------------

const narrow = matchMedia('(max-width: 56rem)')

const drawer = {
  isOpen: false,

  set(isOpen) {
    this.isOpen = isOpen
    const sidebar = byId('sidebar')
    sidebar.classList.toggle('open', isOpen)
    byId('shade').hidden = !isOpen
    for (const behind of [document.querySelector('header'), document.querySelector('main'), byId('skip')]) {
      behind.inert = isOpen
    }
    byId('menu').setAttribute('aria-expanded', String(isOpen))
  },
  open() {
    this.set(true)
    byId('close').focus()
  },
  close() {
    if (!this.isOpen) return
    this.set(false)
    byId('menu').focus()
  },
}
byId('menu').addEventListener('click', () => drawer.open())
byId('close').addEventListener('click', () => drawer.close())
byId('shade').addEventListener('click', () => drawer.close())
byId('sidebar').addEventListener('keydown', (event) => {
  if (event.key === 'Escape') drawer.close()
})
narrow.addEventListener('change', () => drawer.isOpen && drawer.set(false))

// --- who it is --------------------------------------------------------------------------------------------------

let asking = null

onSignIn((refused, problem) => {
  // Another request was told the same; or somebody has signed in since it was sent.
  if (token.get() !== refused) return Promise.resolve()
  token.drop()
  if (refused) byId('token-says').textContent = problem?.message ?? words.tokenRefused
  if (!asking) {
    asking = {}
    asking.over = new Promise((resolve) => (asking.resolve = resolve))
    byId('sign-in').hidden = false
    byId('token').focus()
  }
  return asking.over
})

byId('sign-in').addEventListener('submit', (event) => {
  event.preventDefault()
  const given = byId('token').value.trim()
  if (!given) return
  token.try(given)
  byId('token').value = ''
  byId('token-says').textContent = ''
  byId('sign-in').hidden = true
  const { resolve } = asking
  asking = null
  resolve()
  input.focus()
})
byId('sign-out').addEventListener('click', async () => {
  forgetEverything()
  await shelf.clear()
  location.reload()
})

// --- the beginning ----------------------------------------------------------------------------------------------

// Something may have been said elsewhere meanwhile.
document.addEventListener('visibilitychange', () => {
  if (document.visibilityState !== 'visible' || current.busy) return
  list.refresh()
  current.open()
})

open(idInAddress())
list.refresh()
if (!touch.matches) input.focus()
