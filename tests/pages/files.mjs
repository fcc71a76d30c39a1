// Files that go with a message on the chat page.
//   node files.mjs --perch target/debug/perch [--screenshots DIR] [--only NAME]

import { check, same, tell, until } from './browser.mjs'
import { Chat, stage } from './chatting.mjs'
import { gate } from './model.mjs'

/** A picture of a few colours, made by the browser's own encoder. */
const painted = async (page, type = 'image/png') => {
  const url = await page.evaluate((kind) => {
    const canvas = document.createElement('canvas')
    canvas.width = canvas.height = 96
    const paint = canvas.getContext('2d')
    for (let at = 0; at < 96; at += 8) {
      paint.fillStyle = `hsl(${at * 3} 60% 50%)`
      paint.fillRect(at, 0, 8, 96)
    }
    return canvas.toDataURL(kind)
  }, type)
  return Buffer.from(url.split(',')[1], 'base64')
}

const pdf = (name) => ({ name, mimeType: 'application/pdf', buffer: Buffer.from('%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\nstartxref\n0\n%%EOF\n') })

/** Drops or pastes files, as the browser tells the page of it. */
const bring = (page, kind, target, files) =>
  page.evaluate(
    ([how, where, given]) => {
      const carried = new DataTransfer()
      for (const { name, type, bytes, text } of given) {
        if (text) carried.setData('text/plain', text)
        else carried.items.add(new File([new Uint8Array(bytes)], name, { type }))
      }
      const event =
        how === 'paste'
          ? new ClipboardEvent('paste', { clipboardData: carried, bubbles: true, cancelable: true })
          : new DragEvent(how, { dataTransfer: carried, bubbles: true, cancelable: true })
      document.querySelector(where).dispatchEvent(event)
    },
    [kind, target, files],
  )

/** Where the browser keeps files. */
const kept = (page) =>
  page.evaluate(async () => {
    const wait = (request) => new Promise((resolve, reject) => Object.assign(request, { onsuccess: () => resolve(request.result), onerror: reject }))
    const database = await wait(indexedDB.open('perch'))
    const places = await wait(database.transaction('files').objectStore('files').getAllKeys())
    database.close()
    return places.map((place) => place.replace(/^attached \w+/, 'attached')) // a tab's name
  })

const attached = (chat) => chat.page.locator('#attached .name')

await tell('files', stage, {
  async 'attaches a picture and a document by the button, and sends them'(person, { model }) {
    const chat = await Chat.open(person)
    const picture = await painted(person.page)
    const [chooser] = await Promise.all([person.page.waitForEvent('filechooser'), chat.button('Attach files').click()])
    await chooser.setFiles([{ name: 'stripes.png', mimeType: 'image/png', buffer: picture }, pdf('notes.pdf')])
    await attached(chat).nth(1).waitFor()
    same(await attached(chat).allTextContents(), ['stripes.png', 'notes.pdf'], 'what is attached')
    await person.page.waitForFunction(() => document.querySelector('#attached img').naturalWidth === 96)
    await person.screenshot('preview')
    const asked = model.asked.length
    model.answers('Stripes, I see.')
    await chat.say('what is this?')
    await chat.hears('Stripes, I see.')
    same(await attached(chat).count(), 0, 'what is attached after sending')
    same(await chat.questions.last().locator('.name').allTextContents(), ['stripes.png', 'notes.pdf'], 'what was sent')
    const { content } = model.asked[asked].messages.at(-1)
    const image = content.find((part) => part.type === 'image_url').image_url.url
    same(image, `data:image/png;base64,${picture.toString('base64')}`, 'the picture that the model got')
    await person.page.reload()
    await chat.hears('Stripes, I see.')
    same(await chat.questions.last().locator('.name').allTextContents(), ['stripes.png', 'notes.pdf'], 'what was sent, after a reload')
  },

  async 'sends a file without a word'(person, { model }) {
    const chat = await Chat.open(person)
    await person.page.locator('#files').setInputFiles(pdf('alone.pdf'))
    await attached(chat).first().waitFor()
    model.answers('A document.')
    await chat.button('Send').click()
    await chat.hears('A document.')
    same(await chat.questions.last().locator('.name').allTextContents(), ['alone.pdf'], 'what was sent')
  },

  async 'finds in each window what was attached there'(person) {
    const chat = await Chat.open(person)
    await person.page.locator('#files').setInputFiles(pdf('mine.pdf'))
    await attached(chat).first().waitFor()
    const { page } = person
    await person.openTab()
    await person.page.locator('#files').setInputFiles(pdf('other.pdf'))
    await attached(chat).first().waitFor()
    same(await attached(chat).allTextContents(), ['other.pdf'], 'what is attached in the other window')
    person.page = page
    await page.reload()
    await attached(chat).first().waitFor()
    same(await attached(chat).allTextContents(), ['mine.pdf'], 'what is attached in the first window after a reload')
  },

  async 'drops files anywhere on the page'(person) {
    const chat = await Chat.open(person)
    const bytes = [...(await painted(person.page, 'image/jpeg'))]
    const files = [{ name: 'photo.jpg', type: 'image/jpeg', bytes }]
    await bring(person.page, 'dragover', '#log', files)
    await person.page.getByText('Drop files to attach them').waitFor()
    await person.screenshot('over')
    await bring(person.page, 'drop', '#log', files)
    await person.page.getByText('Drop files to attach them').waitFor({ state: 'hidden' })
    await attached(chat).first().waitFor()
    same(await attached(chat).allTextContents(), ['photo.jpg'], 'what is attached')
    check(await chat.field.evaluate((element) => element === document.activeElement), 'the message field is not focused')
  },

  async 'pastes a picture, and text as text'(person) {
    const chat = await Chat.open(person)
    const bytes = [...(await painted(person.page))]
    await bring(person.page, 'paste', '#message', [{ name: 'image.png', type: 'image/png', bytes }])
    await attached(chat).first().waitFor()
    // A table from a spreadsheet comes with its picture.
    await bring(person.page, 'paste', '#message', [{ text: '1\t2' }, { name: 'image.png', type: 'image/png', bytes }])
    await chat.button('Remove image.png').click()
    same(await attached(chat).count(), 0, 'what is attached')
    check(await chat.field.evaluate((element) => element === document.activeElement), 'the focus was lost')
  },

  async 'is told at once what can’t be sent'(person) {
    const chat = await Chat.open(person)
    const large = Buffer.concat([Buffer.from('%PDF-1.4\n'), Buffer.alloc(5 * 1024 * 1024)])
    await person.page.locator('#files').setInputFiles([
      { name: 'song.mp3', mimeType: 'audio/mpeg', buffer: Buffer.from('ID3') },
      { name: 'large.pdf', mimeType: 'application/pdf', buffer: large },
      { name: 'really-html.png', mimeType: 'image/png', buffer: Buffer.from('<html>') },
      ...Array.from({ length: 5 }, (_, index) => pdf(`${index}.pdf`)),
    ])
    await attached(chat).nth(3).waitFor()
    same(
      await person.page.locator('#refusals p').allTextContents(),
      [
        '“song.mp3” is not a PDF, PNG, JPEG or GIF.',
        '“large.pdf” has 5.1 MiB; 5 MiB is the most.',
        '“really-html.png” does not hold what its name says.',
        'No more than 4 files go with a message.',
      ],
      'what is said',
    )
    same(await attached(chat).allTextContents(), ['0.pdf', '1.pdf', '2.pdf', '3.pdf'], 'what is attached')
    await person.screenshot('refused')
    await chat.button('Dismiss').click()
    same(await person.page.locator('#refusals p:visible').count(), 0, 'how much is still said')
  },

  async 'finds its files in each conversation, and after an error'(person, { model }) {
    person.forgiven = /\/api\//
    const chat = await Chat.open(person)
    await chat.talk('first')
    await person.page.locator('#files').setInputFiles(pdf('for-the-first.pdf'))
    await attached(chat).first().waitFor()
    await chat.button('New conversation').click()
    same(await attached(chat).count(), 0, 'what is attached to a new conversation')
    await person.page.goBack()
    same(await attached(chat).allTextContents(), ['for-the-first.pdf'], 'what is attached to the first')
    model.answers(401)
    await chat.say('read this')
    await chat.button('Edit').click()
    same(await attached(chat).allTextContents(), ['for-the-first.pdf'], 'what is attached after Edit')
    same(await chat.field.inputValue(), 'read this', 'the field after Edit')
  },

  async 'finds what was attached after a reload, as long as it is neither sent nor removed'(person) {
    const chat = await Chat.open(person)
    await chat.talk('first')
    const picture = await painted(person.page)
    await person.page.locator('#files').setInputFiles([{ name: 'stripes.png', mimeType: 'image/png', buffer: picture }, pdf('notes.pdf')])
    await attached(chat).nth(1).waitFor()
    await chat.button('New conversation').click()
    await person.page.locator('#files').setInputFiles(pdf('for-a-new-one.pdf'))
    await attached(chat).first().waitFor()
    await person.page.reload()
    await attached(chat).first().waitFor()
    same(await attached(chat).allTextContents(), ['for-a-new-one.pdf'], 'what is attached to a new conversation')
    await chat.list.first().click()
    await attached(chat).nth(1).waitFor()
    same(await attached(chat).allTextContents(), ['stripes.png', 'notes.pdf'], 'what is attached to the first')
    await person.page.waitForFunction(() => document.querySelector('#attached img').naturalWidth === 96)
    await person.screenshot('again')
    await chat.button('Remove notes.pdf').click()
    await person.page.reload()
    await attached(chat).first().waitFor()
    same(await attached(chat).allTextContents(), ['stripes.png'], 'what is attached after one was removed')
    await chat.say('what is this?')
    await chat.hears('You said: what is this?')
    await person.page.reload()
    await chat.hears('You said: what is this?')
    same(await kept(person.page), ['attached '], 'what the browser keeps')
    await chat.button('New conversation').click()
    await attached(chat).first().waitFor()
    await chat.say('read this')
    await chat.hears('You said: read this')
    same(await kept(person.page), [], 'what the browser keeps at the end')
  },

  async 'leaves no file in the browser when a conversation is deleted'(person) {
    const chat = await Chat.open(person)
    await chat.talk('first')
    await person.page.locator('#files').setInputFiles(pdf('notes.pdf'))
    await attached(chat).first().waitFor()
    await chat.button('Delete “first”').click()
    await chat.button('Delete').click()
    await attached(chat).first().waitFor({ state: 'hidden' })
    await until(async () => (await kept(person.page)).length === 0, 'nothing to be kept')
  },

  async 'sends its files again when the page was left in the middle of the answer'(person, { model }) {
    const chat = await Chat.open(person)
    const asked = model.asked.length
    model.answers('Reading', gate().opened)
    model.answers('Reading is done.')
    await person.page.locator('#files').setInputFiles(pdf('long.pdf'))
    await attached(chat).first().waitFor()
    await chat.say('read this')
    await chat.sees('Reading')
    await person.page.reload()
    await chat.hears('Reading is done.')
    same(await chat.questions.last().locator('.name').allTextContents(), ['long.pdf'], 'what was sent')
    const contents = model.asked.slice(asked).map(({ messages }) => JSON.stringify(messages.at(-1)))
    same([contents.length, contents[1]], [2, contents[0]], 'what the model was asked')
    same(await kept(person.page), [], 'what the browser keeps')
  },

  async 'finds a message with its files when the page was closed before they were sent'(person, { model }) {
    person.forgiven = /\/api\//
    const chat = await Chat.open(person)
    const asked = model.asked.length
    await person.page.route('**/api/chat', (route) => route.abort())
    await person.page.locator('#files').setInputFiles(pdf('left.pdf'))
    await attached(chat).first().waitFor()
    await chat.say('read this')
    await chat.answers.last().getByText('The connection was lost. Trying again…').waitFor()
    await until(async () => (await kept(person.page)).some((place) => place.startsWith('sent ')), 'the files to be kept')
    await person.page.close()
    await person.openTab()
    model.answers('A document.')
    await chat.button('Retry').click()
    await chat.hears('A document.')
    same(await chat.questions.last().locator('.name').allTextContents(), ['left.pdf'], 'what was sent')
    same(model.asked.length - asked, 1, 'how often the model was asked')
    check(JSON.stringify(model.asked.at(-1).messages.at(-1)).includes('left.pdf'), 'the model was not given the file')
    await until(async () => (await kept(person.page)).length === 0, 'nothing to be kept')
  },

  async 'has a title in the list for a message of files alone'(person, { model }) {
    const chat = await Chat.open(person)
    await person.page.locator('#files').setInputFiles([pdf('alone.pdf'), pdf('together.pdf')])
    await attached(chat).nth(1).waitFor()
    model.answers('Documents.')
    await chat.button('Send').click()
    await chat.hears('Documents.')
    await person.page.reload()
    await chat.list.first().waitFor()
    same(await chat.list.allInnerTexts(), ['alone.pdf, together.pdf'], 'the list')
    same(await person.page.title(), 'alone.pdf, together.pdf · perch', 'the title')
  },

  async 'is told that files are gone where the browser keeps none'(person, { model }) {
    const chat = await Chat.open(person)
    await person.context.addInitScript(() => Object.defineProperty(window, 'indexedDB', { value: undefined }))
    await person.page.reload()
    same(await person.page.evaluate(() => typeof indexedDB), 'undefined', 'IndexedDB')
    model.answers('Reading', gate().opened)
    await person.page.locator('#files').setInputFiles(pdf('long.pdf'))
    await attached(chat).first().waitFor()
    await chat.say('read this')
    await chat.sees('Reading')
    await person.page.reload()
    await chat.log.getByText('The files are gone, as the page was left. Attach them again.').waitFor()
    same(await chat.button('Retry').count(), 0, 'the number of buttons that would ask another question')
    await chat.button('Edit').click()
    same(await chat.field.inputValue(), 'read this', 'the field after Edit')
  },
})
