// What a person does on the chat page of a perch with a model behind it.
//   node chat.mjs --perch target/debug/perch [--screenshots DIR] [--only NAME]

import { check, same, tell, until } from './browser.mjs'
import { Chat, REFUSED, stage } from './chatting.mjs'
import { gate } from './model.mjs'

const problem = (status, detail, headers = {}) => (route) =>
  route.fulfill({
    status,
    headers,
    contentType: 'application/problem+json',
    body: JSON.stringify({ type: 'about:blank', title: 'Problem', status, detail, request_id: '0123456789abcdef' }),
  })

/** Makes the next requests to `path` fail, one a `fault`, and returns what was asked. */
async function faulty(page, path, ...faults) {
  const asked = []
  await page.route(path, (route) => {
    const request = route.request()
    asked.push({ body: request.postDataJSON(), headers: request.headers() })
    const fault = faults.shift()
    return fault ? fault(route) : route.continue()
  })
  return asked
}

/** Waits until a page has had the time to hear from the other windows, and to take over what a closed one has left. */
async function looked(page, milliseconds = 1_500) {
  await page.waitForFunction((time) => performance.now() > time, milliseconds)
}

await tell('chat page', stage, {
  async 'finds a page with a strict policy, ready to write on'(person) {
    const answer = await person.arrive()
    const chat = new Chat(person)
    const policy = answer.headers()['content-security-policy'] ?? ''
    check(/default-src 'none'/.test(policy) && !/unsafe/.test(policy), `the content security policy is '${policy}'`)
    same(await person.page.title(), 'perch', 'the title')
    check(await chat.field.evaluate((element) => element === document.activeElement), 'the message field is not focused')
    await chat.button('New conversation').waitFor()
    await chat.button('Send').waitFor()
    await person.page.getByText('What you talk about is kept here.').waitFor()
    const birds = await person.page.evaluate(() => [...document.images].map((image) => image.naturalWidth > 0))
    same(birds, [true, true], 'which birds are there')
  },

  async 'sees the answer grow, then whole'(person, { model }) {
    const chat = await Chat.open(person)
    const [more, end] = [gate(), gate()]
    model.answers('The **first** part', more.opened, ' and the second', end.opened, ' and the end.')
    await chat.say('tell me')
    await chat.sees('The first part')
    same(await chat.answers.last().getAttribute('aria-busy'), 'true', 'aria-busy')
    await chat.button('Stop').waitFor()
    await person.screenshot('growing')
    more.open()
    await chat.sees('The first part and the second')
    end.open()
    await chat.hears('The first part and the second and the end.')
    await chat.button('Stop').waitFor({ state: 'hidden' })
    same(await chat.field.inputValue(), '', 'the field after sending')
    same(await person.page.locator('#status').textContent(), 'perch: The first part and the second and the end.', 'what is read out')
  },

  async 'writes several lines'(person) {
    const chat = await Chat.open(person)
    await chat.field.fill('first')
    const low = (await chat.field.boundingBox()).height
    await chat.field.press('Shift+Enter')
    await person.page.keyboard.type('second')
    check((await chat.field.boundingBox()).height > low, 'the field did not grow')
    await chat.field.press('Enter')
    await chat.hears('You said: first\nsecond')
  },

  async 'composes a word with an input method, and Enter sends only what is finished'(person) {
    const chat = await Chat.open(person, { locale: 'ja-JP' })
    await chat.field.focus()
    const input = await person.context.newCDPSession(person.page)
    await input.send('Input.imeSetComposition', { text: 'にほん', selectionStart: 3, selectionEnd: 3 })
    await chat.field.dispatchEvent('keydown', { key: 'Enter', isComposing: true })
    await chat.field.dispatchEvent('keydown', { key: 'Enter', keyCode: 229 })
    same(await chat.field.inputValue(), 'にほん', 'the field while composing')
    same(await chat.questions.count(), 0, 'the number of questions')
    await input.send('Input.insertText', { text: '日本' })
    await chat.field.press('Enter')
    await chat.hears('You said: 日本')
  },

  async 'sends nothing but blanks'(person) {
    const chat = await Chat.open(person)
    await chat.say('  \n ')
    same(await chat.questions.count(), 0, 'the number of questions')
  },

  async 'stops an answer, keeps what was said, and has it answered again'(person, { model }) {
    const chat = await Chat.open(person)
    const asked = model.asked.length
    model.answers('So far, ', gate().opened)
    await chat.say('go on and on')
    await chat.sees('So far,')
    const before = Date.now()
    await chat.button('Stop').click()
    await chat.answers.last().getByText('Stopped').waitFor()
    await model.left[asked]
    check(Date.now() - before < 1_000, `the model was told after ${Date.now() - before} ms`)
    check(await chat.field.evaluate((element) => element === document.activeElement), 'the focus was lost after Stop')
    await person.screenshot('stopped')
    await person.page.reload()
    await chat.sees('So far,')
    await chat.answers.last().getByText('Stopped').waitFor()
    model.answers('And this is all.')
    await chat.button('Answer again').click()
    await chat.hears('And this is all.')
    same(await chat.questions.count(), 1, 'the number of questions')
    await person.page.reload()
    await chat.hears('And this is all.')
    same(await chat.said(), ['go on and on', 'And this is all.'], 'the conversation')
  },

  async 'stops an answer with Escape'(person, { model }) {
    const chat = await Chat.open(person)
    model.answers('Never', gate().opened)
    await chat.say('stop')
    await chat.sees('Never')
    await chat.field.press('Escape')
    await chat.answers.last().getByText('Stopped').waitFor()
  },

  async 'writes on while an answer grows, and is answered in turn'(person, { model }) {
    const chat = await Chat.open(person)
    const end = gate()
    model.answers('slowly', end.opened, ' but surely')
    await chat.say('one')
    await chat.sees('slowly')
    await chat.say('two')
    await chat.answers.last().getByText('Comes after the answer above').waitFor()
    end.open()
    await chat.hears('You said: two')
    same(await chat.said(), ['one', 'slowly but surely', 'two', 'You said: two'], 'the conversation')
  },

  async 'sees an error where it happened, and tries that message again'(person, { model }) {
    person.forgiven = REFUSED
    const chat = await Chat.open(person)
    model.answers(401)
    await chat.say('this one fails')
    const failed = chat.answers.first()
    await failed.locator('.why', { hasText: /\S/ }).waitFor()
    await failed.getByText(/^Request [0-9a-f]{16}$/).waitFor()
    await chat.say('this one does not')
    await chat.hears('You said: this one does not')
    await person.screenshot('error')
    await person.page.reload()
    await chat.button('Retry').click()
    await chat.sees('this one')
    await failed.getByText('You said: this one fails').waitFor()
    const said = ['this one fails', 'You said: this one fails', 'this one does not', 'You said: this one does not']
    same(await chat.said(), said, 'the conversation')
    await person.page.reload()
    await chat.hears('You said: this one does not')
    same(await chat.said(), said, 'the conversation after a reload')
  },

  async 'takes a refused message back to mend it'(person) {
    person.forgiven = REFUSED
    const chat = await Chat.open(person)
    await faulty(person.page, '**/api/chat', problem(413, 'Too long.'))
    await chat.say('far too long')
    await chat.log.getByText('Too long.').waitFor()
    await chat.field.fill('and a draft')
    await chat.button('Edit').click()
    same(await chat.field.inputValue(), 'far too long\nand a draft', 'the field')
    same(await chat.questions.count(), 0, 'the number of questions')
    await chat.field.press('Enter')
    await chat.hears('You said: far too long\nand a draft')
  },

  async 'finds a message that could not be sent after closing the page'(person) {
    person.forgiven = REFUSED
    const chat = await Chat.open(person)
    await chat.talk('hello')
    await faulty(person.page, '**/api/chat', problem(429, 'Too many requests.', { 'retry-after': '12' }))
    await chat.say('too soon')
    await chat.log.getByText('Too many requests. Try again in 12 seconds.').waitFor()
    await person.page.unroute('**/api/chat')
    await person.page.reload()
    await chat.log.getByText('too soon').waitFor()
    await chat.button('Retry').click()
    await chat.hears('You said: too soon')
  },

  async 'reloads in the middle of an answer and sees the rest of it'(person, { model }) {
    const chat = await Chat.open(person)
    const asked = model.asked.length
    model.answers('The beginning', gate().opened)
    model.answers('The beginning', ' and the end.')
    await chat.say('a long story')
    await chat.sees('The beginning')
    await person.page.reload()
    await chat.hears('The beginning and the end.')
    same(model.asked.length - asked, 2, 'how often the model was asked')
    same(await chat.questions.count(), 1, 'the number of questions')
  },

  async 'sees the rest of an answer after perch was away'(person, { model, perch }) {
    person.forgiven = REFUSED
    const chat = await Chat.open(person)
    model.answers('The beginning', gate().opened)
    await chat.say('a long story')
    await chat.sees('The beginning')
    await perch.crash()
    await chat.answers.last().getByText('The connection was lost. Trying again…').waitFor()
    await chat.sees('The beginning')
    await person.screenshot('away')
    model.answers('The beginning', ' and the end.')
    await perch.again()
    await chat.hears('The beginning and the end.')
    same(await chat.questions.count(), 1, 'the number of questions')
    await chat.talk('still there?')
  },

  async 'finds in another tab what was said before perch was away, and has it answered again'(person, { model, perch }) {
    person.forgiven = REFUSED
    const chat = await Chat.open(person)
    model.answers('Once upon a time', gate().opened)
    await chat.say('a long story')
    await chat.sees('Once upon a time')
    const address = `/${new URL(person.page.url()).hash}`
    await until(() => perch.wrote('Once upon a time'), 'what was said on the disk')
    await person.page.close()
    await perch.crash()
    await perch.again()
    await person.openTab(address)
    await chat.hears('Once upon a time')
    await chat.answers.last().getByText('Stopped').waitFor()
    await person.screenshot('after')
    model.answers('Once upon a time', ' and the end.')
    await chat.button('Answer again').click()
    await chat.hears('Once upon a time and the end.')
    same(await chat.questions.count(), 1, 'the number of questions')
  },

  async 'writes while perch is away, and is answered when it is back'(person, { perch }) {
    person.forgiven = REFUSED
    const chat = await Chat.open(person)
    await perch.crash()
    await chat.say('anybody there?')
    await chat.answers.last().getByText('The connection was lost. Trying again…').waitFor()
    await perch.again()
    await chat.hears('You said: anybody there?')
  },

  async 'closes the page while perch is away, and finds the message in the next one'(person, { model, perch }) {
    person.forgiven = REFUSED
    const chat = await Chat.open(person)
    const asked = model.asked.length
    await perch.crash()
    await chat.say('I typed this while perch was away')
    await chat.answers.last().getByText('The connection was lost. Trying again…').waitFor()
    await person.page.close()
    await perch.again()
    await person.openTab()
    const { page } = person
    await chat.questions.getByText('I typed this while perch was away').waitFor()
    await chat.log.getByText('This message was not answered.').waitFor()
    await person.screenshot('found')
    // A third one finds it with the second, and leaves it there.
    await person.openTab()
    await looked(person.page)
    same(await chat.questions.count(), 0, 'the number of questions in another window')
    await person.page.close()
    person.page = page
    await page.reload()
    await chat.button('Retry').click()
    await chat.hears('You said: I typed this while perch was away')
    same(await chat.said(), ['I typed this while perch was away', 'You said: I typed this while perch was away'], 'the conversation')
    await chat.list.first().waitFor()
    same(await chat.list.allInnerTexts(), ['I typed this while perch was away'], 'the list')
    same(model.asked.length - asked, 1, 'how often the model was asked')
    same(await page.evaluate(() => Object.keys(localStorage)), [], 'what the browser keeps')
  },

  async 'closes the page of a conversation while perch is away, and mends the message in the next one'(person, { model, perch }) {
    person.forgiven = REFUSED
    const chat = await Chat.open(person)
    await chat.talk('first')
    const address = `/${new URL(person.page.url()).hash}`
    const asked = model.asked.length
    await perch.crash()
    await chat.say('secnd')
    await chat.answers.last().getByText('The connection was lost. Trying again…').waitFor()
    await person.page.close()
    await perch.again()
    await person.openTab(address)
    await chat.questions.getByText('secnd').waitFor()
    await chat.button('Edit').click()
    same(await chat.field.inputValue(), 'secnd', 'the field')
    await chat.talk('second')
    same(await chat.said(), ['first', 'You said: first', 'second', 'You said: second'], 'the conversation')
    same(model.asked.length - asked, 1, 'how often the model was asked')
  },

  async 'closes one window while perch is away, and finds its message in the other that is open'(person, { model, perch }) {
    person.forgiven = REFUSED
    const chat = await Chat.open(person)
    const asked = model.asked.length
    const { page: one } = person
    await person.openTab()
    const { page: other } = person
    await perch.crash()
    person.page = one
    await chat.say('hold on')
    await chat.answers.last().getByText('The connection was lost. Trying again…').waitFor()
    await perch.again()
    await one.close()
    person.page = other
    // A person who looks at it again; all windows are in sight of the browser of a test.
    await other.evaluate(() => document.dispatchEvent(new Event('visibilitychange')))
    await chat.questions.getByText('hold on').waitFor()
    await chat.button('Retry').click()
    await chat.hears('You said: hold on')
    same(model.asked.length - asked, 1, 'how often the model was asked')
  },

  async 'is still sending in one window, and finds nothing of it in another'(person, { model }) {
    person.forgiven = REFUSED
    const chat = await Chat.open(person)
    const asked = model.asked.length
    const { page } = person
    await page.route('**/api/chat', (route) => route.abort())
    await chat.say('hold on')
    await chat.answers.last().getByText('The connection was lost. Trying again…').waitFor()
    await person.openTab()
    await looked(person.page)
    same(await chat.questions.count(), 0, 'the number of questions in the other window')
    await page.unroute('**/api/chat')
    person.page = page
    await chat.hears('You said: hold on')
    person.page = person.context.pages().at(-1)
    await chat.list.first().waitFor()
    same(await chat.list.allInnerTexts(), ['hold on'], 'the list in the other window')
    await chat.button('New conversation').click()
    await chat.talk('something else')
    same(await chat.questions.count(), 1, 'the number of questions in the other window')
    same(model.asked.length - asked, 2, 'how often the model was asked')
  },

  async 'sleeps in one window while another takes its message over, and sends it once'(person, { model }) {
    person.forgiven = REFUSED
    const chat = await Chat.open(person)
    const asked = model.asked.length
    const { page } = person
    await page.route('**/api/chat', (route) => route.abort())
    await chat.say('hold on')
    await chat.answers.last().getByText('The connection was lost. Trying again…').waitFor()
    const sleep = await person.context.newCDPSession(page)
    const asleep = new Promise((resolve) => sleep.once('Debugger.paused', resolve))
    await sleep.send('Debugger.enable')
    await sleep.send('Debugger.pause')
    await asleep
    await person.openTab()
    await chat.button('Edit').click()
    await looked(person.page, 4_000) // the other one's next try is long overdue
    await sleep.send('Debugger.disable')
    await page.unroute('**/api/chat')
    await page.locator('.exchange').waitFor({ state: 'detached' })
    same(await chat.field.inputValue(), 'hold on', 'the field')
    await chat.talk('hold on!')
    await chat.list.first().waitFor()
    same(await chat.list.allInnerTexts(), ['hold on!'], 'the list')
    same(model.asked.length - asked, 1, 'how often the model was asked')
  },

  async 'closes the page before it hears that perch has the message, and finds that in the list alone'(person, { model }) {
    person.forgiven = REFUSED
    const chat = await Chat.open(person)
    const asked = model.asked.length
    let tries = 0
    await person.page.route('**/api/chat', async (route) => {
      if (tries++ === 0) await route.fetch()
      await route.abort()
    })
    await chat.say('did this get through?')
    await chat.answers.last().getByText('The connection was lost. Trying again…').waitFor()
    await person.page.close()
    await person.openTab()
    await until(() => person.page.evaluate(() => !localStorage.getItem('perch.unsent')), 'nothing to be left to send')
    same(await chat.questions.count(), 0, 'the number of questions in a new conversation')
    await chat.list.first().click()
    await chat.hears('You said: did this get through?')
    same(await chat.questions.count(), 1, 'the number of questions')
    same(model.asked.length - asked, 1, 'how often the model was asked')
  },

  async 'waits as long as it is told before it tries again'(person) {
    person.forgiven = REFUSED
    const chat = await Chat.open(person)
    const busy = { status: 503, detail: 'the chat has too much to do at the moment; try again in 3 s', retry_after: 3 }
    const fault = (route) => route.fulfill({ contentType: 'text/event-stream', body: `event: error\ndata: ${JSON.stringify(busy)}\n\n` })
    const asked = await faulty(person.page, '**/api/chat', fault)
    const before = Date.now()
    await chat.say('is there room?')
    await chat.answers.last().getByText('The chat has too much to do at the moment. Trying again in 3 seconds…', { exact: true }).waitFor()
    await person.page.evaluate(() => dispatchEvent(new Event('online')))
    await chat.hears('You said: is there room?')
    check(Date.now() - before >= 3_000, `it was tried again after ${Date.now() - before} ms`)
    same(asked.length, 2, 'how often perch was asked')
  },

  async 'is told when to try again, where that is not soon'(person, { model }) {
    person.forgiven = REFUSED
    for (const [locale, sentences, long] of [
      ['en', 'The chat has too much to do at the moment. Try again in 5 minutes.', 'Busy. Try again in 3 hours.'],
      ['ja', '現在、perch は応答できません。5 分後にもう一度お試しください。', '現在、perch は応答できません。3 時間後にもう一度お試しください。'],
      ['fr', 'perch ne peut pas répondre pour le moment. Réessayez dans 5 minutes.', 'perch ne peut pas répondre pour le moment. Réessayez dans 3 heures.'],
    ]) {
      const chat = await Chat.open(person, { locale })
      const asked = model.asked.length
      model.answers(429, { 'retry-after': '300' })
      await chat.say('and now?')
      await chat.log.locator('.why', { hasText: /\S/ }).waitFor()
      same(await chat.log.locator('.why').textContent(), sentences, 'what is said of it')
      same(model.asked.length - asked, 1, 'how often the model was asked')
      await faulty(person.page, '**/api/chat', problem(503, 'Busy; try again in 180 minutes', { 'retry-after': '10800' }))
      await person.page.locator('.retry').click()
      await chat.log.getByText(long, { exact: true }).waitFor()
    }
    await person.screenshot('told')
  },

  async 'is told that an answer was cut off, and reads on'(person, { model }) {
    const chat = await Chat.open(person)
    const note = 'The answer was cut off at its limit. Write “continue” to read on.'
    model.answers('Once upon a time there', { finish: 'length' })
    await chat.say('a long story')
    await chat.hears('Once upon a time there')
    await chat.answers.first().getByText(note).waitFor()
    check((await person.page.locator('#status').textContent()).endsWith(note), 'the note is not read out')
    await person.isAccessible()
    await person.screenshot('cut')
    model.answers(' was a perch.')
    await chat.say('continue')
    await chat.hears('was a perch.')
    same(await chat.log.getByText(note).filter({ visible: true }).count(), 1, 'the number of notes')
    await person.page.reload()
    await chat.hears('was a perch.')
    await chat.answers.first().getByText(note).waitFor()
    same(await chat.log.getByText(note).filter({ visible: true }).count(), 1, 'the number of notes after a reload')
  },

  async 'writes in two windows, and finds in both what was written there'(person) {
    const one = await Chat.open(person)
    await one.field.fill('a thought of the first')
    const { page } = person
    await person.openTab()
    const two = new Chat(person)
    same(await two.field.inputValue(), 'a thought of the first', 'what the second begins with')
    await two.talk('something else')
    await two.button('New conversation').click()
    same(await two.field.inputValue(), '', 'the field of a new conversation in the second')
    await two.field.fill('a thought of the second')
    person.page = page
    await page.reload()
    same(await one.field.inputValue(), 'a thought of the first', 'the field of the first after a reload')
    // Both windows are closed, and whoever comes back finds one thought after the other.
    await person.context.pages()[1].close()
    await page.close()
    await person.openTab()
    const again = new Chat(person)
    const found = [await again.field.inputValue()]
    await again.talk('and this')
    await again.button('New conversation').click()
    found.push(await again.field.inputValue())
    same(found.toSorted(), ['a thought of the first', 'a thought of the second'], 'what is found')
    await again.field.fill('')
    await again.list.first().click()
    await again.button('New conversation').click()
    same(await again.field.inputValue(), '', 'what is left')
    same(await person.page.evaluate(() => Object.keys(localStorage)), [], 'what the browser keeps')
  },

  async 'copies a window, and finds in both what was written there'(person) {
    const one = await Chat.open(person)
    await one.field.fill('to be, or')
    const { page } = person
    const names = () => Promise.all(person.context.pages().map((each) => each.evaluate(() => sessionStorage.getItem('perch.tab'))))
    const [copy] = await Promise.all([page.waitForEvent('popup'), page.evaluate(() => void open(location.href))])
    const two = new Chat({ page: copy })
    await until(async () => new Set(await names()).size === 2, 'a name of its own')
    same(await two.field.inputValue(), 'to be, or', 'what the copy begins with')
    await two.field.fill('not to be')
    await Promise.all([page.reload(), copy.reload()])
    same(await one.field.inputValue(), 'to be, or', 'the field of the first')
    same(await two.field.inputValue(), 'not to be', 'the field of the copy')
    await page.reload()
    await page.evaluate(() => new Promise(requestAnimationFrame))
    same(new Set(await names()).size, 2, 'the number of names')
  },

  async 'finds what was being written in each conversation'(person) {
    const chat = await Chat.open(person)
    await chat.talk('first')
    await chat.field.fill('a thought about the first')
    await chat.button('New conversation').click()
    same(await chat.field.inputValue(), '', 'the field of a new conversation')
    await chat.field.fill('half a new thou')
    await chat.list.first().click()
    same(await chat.field.inputValue(), 'a thought about the first', 'the field of the first')
    await person.page.reload()
    same(await chat.field.inputValue(), 'a thought about the first', 'the field after a reload')
    await chat.button('New conversation').click()
    same(await chat.field.inputValue(), 'half a new thou', 'the field of the new one')
  },

  async 'finds each conversation again: in the list, by going back, by its address'(person) {
    const chat = await Chat.open(person)
    await chat.talk('about birds')
    await chat.button('New conversation').click()
    same(await chat.questions.count(), 0, 'the number of questions in a new conversation')
    await chat.talk('about fish')
    await chat.list.nth(1).waitFor()
    same(await chat.list.allInnerTexts(), ['about fish', 'about birds'], 'the list')
    same(await chat.page.title(), 'about fish · perch', 'the title')
    same(await chat.list.first().getAttribute('aria-current'), 'page', 'which one is open')
    await chat.list.nth(1).click()
    await chat.hears('You said: about birds')
    await person.screenshot('list')
    await person.page.goBack()
    await chat.hears('You said: about fish')
    const address = new URL(person.page.url()).hash
    check(address.length > 1, 'the conversation has no address')
    await person.openTab(`/${address}`)
    await chat.hears('You said: about fish')
  },

  async 'reads one conversation while another is being answered'(person, { model }) {
    const chat = await Chat.open(person)
    await chat.talk('short')
    await chat.button('New conversation').click()
    const end = gate()
    model.answers('to be', end.opened, ' continued')
    await chat.say('long')
    await chat.sees('to be')
    await chat.list.filter({ hasText: 'short' }).click()
    await chat.hears('You said: short')
    await person.page.getByRole('img', { name: 'perch is answering' }).waitFor()
    end.open()
    await person.page.getByRole('img', { name: 'perch is answering' }).waitFor({ state: 'detached' })
    await chat.list.filter({ hasText: 'long' }).click()
    await chat.hears('to be continued')
  },

  async 'sees in one window what is being answered in another'(person, { model }) {
    const chat = await Chat.open(person)
    const end = gate()
    model.answers('from the first', end.opened, ' window')
    await chat.say('look at me')
    await chat.sees('from the first')
    await person.openTab(`/${new URL(person.page.url()).hash}`)
    await chat.answers.last().getByText('Being answered in another window…').waitFor()
    end.open()
    await chat.hears('from the first window')
  },

  async 'sees at once what is said in another window, and that it was deleted there'(person) {
    person.forgiven = REFUSED
    const here = await Chat.open(person)
    await here.talk('one')
    const { page } = person
    await person.openTab(`/${new URL(page.url()).hash}`)
    const there = new Chat(person)
    await there.hears('You said: one')
    await there.talk('two')
    person.page = page
    await here.hears('You said: two')
    await here.button('New conversation').click()
    await here.talk('another')
    person.page = person.context.pages().at(-1)
    await there.list.nth(1).waitFor()
    same(await there.list.allInnerTexts(), ['another', 'one'], 'the list in the other window')
    await there.field.fill('half a thought')
    person.page = page
    await here.button('Delete “one”').click()
    await here.button('Delete').click()
    person.page = person.context.pages().at(-1)
    await person.page.getByText('There is no such conversation. It was deleted, or it is not yours.').waitFor()
    same(await there.questions.count(), 0, 'the number of questions')
    same(await there.list.allInnerTexts(), ['another'], 'the list')
    same(await there.field.inputValue(), 'half a thought', 'what is being written')
    await there.field.press('Enter')
    await there.hears('You said: half a thought')
  },

  async 'deletes the conversation that is being answered'(person, { model }) {
    const chat = await Chat.open(person)
    const asked = model.asked.length
    model.answers('On and on', gate().opened)
    await chat.say('go on')
    await chat.sees('On and on')
    await chat.button('Delete “go on”').click()
    await chat.button('Delete').click()
    await model.left[asked]
    await chat.questions.first().waitFor({ state: 'detached' })
    await chat.button('Stop').waitFor({ state: 'hidden' })
    same(await person.page.evaluate(() => Object.keys(localStorage)), [], 'what the browser keeps')
    await chat.talk('something else')
  },

  async 'deletes a conversation, once asked twice'(person) {
    const chat = await Chat.open(person)
    await chat.talk('keep me')
    await chat.button('New conversation').click()
    await chat.talk('not me')
    await chat.list.nth(1).waitFor()
    await chat.button('Delete “not me”').click()
    await person.page.getByRole('dialog', { name: 'Delete “not me”?' }).waitFor()
    await person.screenshot('asked')
    await chat.button('Cancel').click()
    same(await chat.list.count(), 2, 'the number of conversations')
    await chat.button('Delete “not me”').click()
    await chat.button('Delete').click()
    await chat.list.nth(1).waitFor({ state: 'detached' })
    same(await chat.list.allInnerTexts(), ['keep me'], 'the list')
    same(await chat.questions.count(), 0, 'the number of questions')
    await person.page.reload()
    await chat.list.first().waitFor()
    same(await chat.list.allInnerTexts(), ['keep me'], 'the list after a reload')
  },

  async 'is asked about a title that is written from right to left'(person) {
    const chat = await Chat.open(person, { locale: 'ja-JP' })
    await chat.talk('مرحبا')
    await person.page.getByRole('button', { name: '「مرحبا」を削除', exact: true }).click()
    await person.page.getByRole('dialog', { name: '「مرحبا」を削除しますか？' }).waitFor()
    const [first, rest] = await person.page.locator('#confirm-what').evaluate((heading) => {
      const place = (node) => {
        const range = document.createRange()
        range.selectNodeContents(node)
        return range.getBoundingClientRect().left
      }
      return [place(heading.firstChild), place(heading.lastChild)]
    })
    check(first < rest, 'the question does not read from left to right')
    await person.screenshot('asked')
  },

  async 'takes everything along, and deletes everything'(person) {
    const chat = await Chat.open(person)
    await chat.talk('remember this')
    const [download] = await Promise.all([person.page.waitForEvent('download'), chat.button('Download all').click()])
    const stream = await download.createReadStream()
    let text = ''
    for await (const chunk of stream) text += chunk
    check(text.includes('remember this'), `the export is ${text}`)
    await chat.button('Delete all').click()
    await chat.button('Delete').click()
    await person.page.getByText('What you talk about is kept here.').waitFor()
    same(await chat.list.count(), 0, 'the number of conversations')
    same(await chat.questions.count(), 0, 'the number of questions')
  },

  async 'leafs through many conversations'(person) {
    const chat = await Chat.open(person)
    for (let number = 1; number <= 55; number += 1) {
      await person.context.request.post(`${person.address}/api/chat`, { data: { message: `talk ${number}` } })
    }
    await person.page.reload()
    await chat.list.nth(49).waitFor()
    await chat.button('Show older').click()
    await chat.list.nth(54).waitFor()
    same(await chat.list.last().innerText(), 'talk 1', 'the oldest')
    await chat.button('Show older').waitFor({ state: 'hidden' })
  },

  async 'opens the address of a conversation that is not there'(person) {
    person.forgiven = REFUSED
    const chat = await Chat.open(person, { path: `/#${'0'.repeat(32)}` })
    await person.page.getByText('There is no such conversation. It was deleted, or it is not yours.').waitFor()
    await person.screenshot('gone')
    await chat.talk('then a new one')
    check(!person.page.url().endsWith('#' + '0'.repeat(32)), 'it went on in a conversation that is not there')
  },

  async 'goes on though perch forgot the conversation'(person) {
    person.forgiven = REFUSED
    const chat = await Chat.open(person)
    await chat.talk('hello')
    const asked = await faulty(person.page, '**/api/chat', problem(404, 'No such conversation.'))
    await chat.say('remember me?')
    await chat.log.getByText('perch no longer remembers what was said above.').waitFor()
    await chat.hears('You said: remember me?')
    same(asked.map(({ body }) => 'conversation' in body), [true, false], 'what carried a conversation')
    const keys = new Set(asked.map(({ headers }) => headers['idempotency-key']))
    same(keys.size, 1, 'the number of keys')
  },

  async 'chats on though the list can’t be read'(person) {
    person.forgiven = REFUSED
    await person.arrive()
    await person.page.route('**/api/conversations', problem(503, 'The database is full.'))
    await person.page.reload()
    const chat = new Chat(person)
    await person.page.getByText('Your conversations can’t be listed at the moment.').waitFor()
    await chat.talk('still there?')
    await person.screenshot('no list')
    await person.page.unroute('**/api/conversations')
    await chat.button('Retry').click()
    await chat.list.first().waitFor()
  },

  async 'scrolls up and is left in peace'(person, { model }) {
    const chat = await Chat.open(person)
    model.answers(Array.from({ length: 60 }, (_, line) => `line ${line}\n\n`).join(''))
    await chat.say('a lot')
    await chat.sees('line 59')
    const scroller = person.page.locator('#scroller')
    const below = () => scroller.evaluate((element) => element.scrollHeight - element.scrollTop - element.clientHeight)
    check((await below()) < 2, `the newest is ${await below()} px below the window`)
    const [more, end] = [gate(), gate()]
    model.answers('word', more.opened, '\n\nmore'.repeat(30), end.opened)
    await chat.say('and more')
    await chat.sees('word')
    await scroller.evaluate((element) => (element.scrollTop = 0))
    more.open()
    await chat.sees('more')
    same(await scroller.evaluate((element) => element.scrollTop), 0, 'the place of somebody reading')
    await person.screenshot('up')
    await chat.button('Go to the latest message').click()
    check((await below()) < 2, `the newest is ${await below()} px below the window`)
    end.open()
  },

  async 'is at the newest message after a reload, whatever stands below it'(person, { model }) {
    const chat = await Chat.open(person, { viewport: { width: 320, height: 568 } })
    model.answers(Array.from({ length: 40 }, (_, line) => `line ${line}\n\n`).join(''))
    await chat.say('a lot')
    await chat.sees('line 39')
    await chat.field.fill('many\nlines\n'.repeat(8))
    await person.page.locator('#files').setInputFiles(
      Array.from({ length: 4 }, (_, index) => ({ name: `${index}.pdf`, mimeType: 'application/pdf', buffer: Buffer.from('%PDF-1.4') })),
    )
    await person.page.locator('#attached .name').nth(3).waitFor()
    const send = await chat.button('Send').boundingBox()
    check(send.y + send.height <= 568, `the button to send is ${send.y} px from the top`)
    await person.page.reload()
    await person.page.locator('#attached .name').nth(3).waitFor()
    await chat.sees('line 39')
    const below = () => person.page.locator('#scroller').evaluate((element) => element.scrollHeight - element.scrollTop - element.clientHeight)
    await until(async () => (await below()) < 2, 'the newest message')
    await person.screenshot('bottom')
  },

  async 'writes lines on a phone, whose keyboard has no Shift+Enter'(person) {
    const chat = await Chat.open(person, { viewport: { width: 390, height: 800 }, hasTouch: true, isMobile: true })
    await chat.field.tap()
    await chat.field.pressSequentially('first\nsecond')
    same(await chat.questions.count(), 0, 'the number of questions')
    await chat.button('Send').tap()
    await chat.hears('You said: first\nsecond')
    await person.fitsTheWindow()
    await chat.button('Conversations').tap()
    await chat.list.first().waitFor()
    await person.screenshot('drawer')
    await person.page.keyboard.press('Escape')
    await chat.list.first().waitFor({ state: 'hidden' })
    check(await chat.button('Conversations').evaluate((element) => element === document.activeElement), 'the focus was lost')
  },
})
