// Whether everybody can use the chat page: by keyboard, by ear, on a small screen, in the dark, in their language.
//   node access.mjs --perch target/debug/perch [--screenshots DIR] [--only NAME]

import { check, same, tell } from './browser.mjs'
import { Chat, REFUSED, stage } from './chatting.mjs'
import { gate } from './model.mjs'

const RICH = 'A **list**:\n\n- one\n- [two](https://example.org/)\n\n```js\nlet bird = "perch"\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n> said\n\n- [x] done'

const PNG = Buffer.from('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==', 'base64')

/** Brings the page into every state that it has, and calls `look(state)` in each. */
async function everyState(person, model, look) {
  person.forgiven = REFUSED
  const chat = new Chat(person)
  const page = person.page
  await look('empty')
  const end = gate()
  model.answers('Slowly, ', end.opened, 'and surely')
  await chat.say('say something long')
  await chat.sees('Slowly,')
  await look('growing')
  await chat.say('and then?')
  await look('queued')
  end.open()
  await page.locator('.exchange:nth-child(2) .prose', { hasText: 'and then?' }).waitFor()
  model.answers(RICH)
  await chat.say('in markdown')
  await chat.answers.last().locator('table').waitFor()
  await page.locator('#stop').waitFor({ state: 'hidden' })
  await look('markdown')
  model.answers('So far', gate().opened)
  await chat.say('stop')
  await chat.sees('So far')
  await chat.field.press('Escape')
  await look('stopped')
  model.answers(401)
  await chat.say('fail')
  await chat.answers.last().locator('.problem').waitFor()
  await look('failed')
  await page.locator('#files').setInputFiles([
    { name: 'bird.png', mimeType: 'image/png', buffer: PNG },
    { name: 'notes.pdf', mimeType: 'application/pdf', buffer: Buffer.from('%PDF-1.4\n') },
    { name: 'song.mp3', mimeType: 'audio/mpeg', buffer: Buffer.from('ID3') },
  ])
  await page.locator('#attached .name').nth(1).waitFor()
  await chat.field.fill('with files')
  await look('files')
  if (await page.locator('#menu').isVisible()) {
    await page.locator('#menu').click()
    await look('drawer')
  }
  await page.locator('#list .bin').first().focus()
  await page.keyboard.press('Enter')
  await page.locator('#confirm').waitFor()
  await look('asked')
  await page.locator('#confirm-no').click()
  if (await page.locator('#close').isVisible()) await page.locator('#close').click()
  await page.locator('#scroller').evaluate((element) => (element.scrollTop = 0))
  if (await page.locator('#latest').isVisible()) await look('up')
  await page.route('**/api/**', (route) => route.fulfill({ status: 401, body: '{}' }))
  await page.reload()
  await page.locator('#token').waitFor()
  await look('signing in')
  await page.unroute('**/api/**')
  await page.route('**/api/**', (route) => route.fulfill({ status: 500, body: '{}' }))
  await page.reload()
  await page.locator('#open-retry').waitFor()
  await look('not opened')
  await page.unroute('**/api/**')
}

const calm = { reducedMotion: 'reduce' }
const looks = {
  'light and wide': { ...calm, colorScheme: 'light', viewport: { width: 1280, height: 800 } },
  'dark and wide': { ...calm, colorScheme: 'dark', viewport: { width: 1280, height: 800 } },
  'light and narrow': { ...calm, colorScheme: 'light', viewport: { width: 320, height: 640 } },
  'dark and middling': { ...calm, colorScheme: 'dark', viewport: { width: 768, height: 900 } },
}
const focused = (page) => page.evaluate(() => document.activeElement.id || document.activeElement.className || document.activeElement.tagName)

await tell('for everybody', stage, {
  ...Object.fromEntries(
    Object.entries(looks).map(([name, options]) => [
      `axe finds nothing, and nothing sticks out: ${name}`,
      async (person, { model }) => {
        await person.arrive(options)
        await everyState(person, model, async (state) => {
          await person.screenshot(state)
          person.doing = state
          await person.isAccessible().catch((error) => {
            throw new Error(`${state}: ${error.message}`)
          })
          await person.fitsTheWindow()
        })
      },
    ]),
  ),

  async 'chats with the keyboard alone'(person, { model }) {
    person.forgiven = REFUSED
    const chat = await Chat.open(person)
    const { page } = person
    await page.keyboard.type('by keyboard')
    await page.keyboard.press('Enter')
    await chat.hears('You said: by keyboard')
    await chat.list.first().waitFor()
    await page.reload()
    await chat.hears('You said: by keyboard')
    await page.locator('#skip').focus()
    const order = []
    for (let tabs = 0; tabs < 14; tabs += 1) {
      const now = await focused(page)
      if (order.includes(now) || now === 'BODY') break
      order.push(now)
      const ring = await page.evaluate(() => {
        const element = document.activeElement.id === 'message' ? document.querySelector('.field') : document.activeElement
        const { outlineStyle, outlineWidth, boxShadow } = getComputedStyle(element)
        return outlineStyle === 'none' ? boxShadow : `${outlineStyle} ${outlineWidth}`
      })
      check(ring !== 'none', `the focus on ${now} can't be seen`)
      await page.keyboard.press('Tab')
    }
    same(order, ['skip', 'new', 'title', 'bin', 'export', 'delete-all', 'scroller', 'copy', 'attach', 'message', 'send'], 'the order')
    await page.locator('#skip').focus()
    await person.screenshot('skip')
    await page.keyboard.press('Enter')
    same(await focused(page), 'message', 'where the skip link leads')
    model.answers(401)
    await page.keyboard.type('fail')
    await page.keyboard.press('Enter')
    await chat.button('Retry').waitFor()
    for (let tabs = 0; tabs < 10 && (await focused(page)) !== 'retry'; tabs += 1) await page.keyboard.press('Shift+Tab')
    await page.keyboard.press('Enter')
    await chat.hears('You said: fail')
    same(await focused(page), 'message', 'the focus after Retry')
    for (let tabs = 0; tabs < 20 && (await focused(page)) !== 'bin'; tabs += 1) await page.keyboard.press('Shift+Tab')
    await page.keyboard.press('Enter')
    same(await focused(page), 'confirm-no', 'the focus of the question')
    await page.keyboard.press('Tab')
    await page.keyboard.press('Enter')
    await chat.list.first().waitFor({ state: 'detached' })
    same(await focused(page), 'message', 'the focus after the last conversation was deleted')
  },

  async 'is kept in the drawer while it is open'(person) {
    const chat = await Chat.open(person, { viewport: { width: 320, height: 640 } })
    await chat.talk('hello')
    await chat.button('Conversations').click()
    const seen = new Set()
    for (let tabs = 0; tabs < 8; tabs += 1) {
      seen.add(await focused(person.page))
      await person.page.keyboard.press('Tab')
    }
    check(!['message', 'menu', 'new', 'skip', 'scroller'].some((behind) => seen.has(behind)), `the focus went to ${[...seen]}`)
  },

  async 'hears each answer once'(person, { model }) {
    const chat = await Chat.open(person)
    await person.page.evaluate(() => {
      globalThis.spoken = []
      new MutationObserver(() => {
        const { textContent } = document.getElementById('status')
        if (textContent) globalThis.spoken.push(textContent)
      }).observe(document.getElementById('status'), { childList: true })
    })
    const gates = Array.from({ length: 5 }, () => gate())
    model.answers(...gates.flatMap((one, index) => [`word${index} `, one.opened]), '\n\n```js\n1\n```')
    await chat.say('count')
    for (const [index, one] of gates.entries()) {
      await chat.sees(`word${index}`)
      one.open()
    }
    await person.page.waitForFunction(() => globalThis.spoken.at(-1)?.startsWith('perch:'))
    same(await person.page.evaluate(() => globalThis.spoken), ['Waiting for perch', 'perch: word0 word1 word2 word3 word4\n1'], 'what was said')
    same(await chat.log.getAttribute('aria-live'), 'off', 'the log speaks')
  },

  async 'has no moving parts where that is asked for'(person, { model }) {
    const chat = await Chat.open(person, calm)
    model.answers('Slowly', gate().opened)
    await chat.say('move')
    await chat.sees('Slowly')
    same(await person.page.evaluate(() => document.getAnimations().length), 0, 'the number of animations')
  },

  async 'reads text twice as large'(person, { model }) {
    const chat = await Chat.open(person, { viewport: { width: 640, height: 900 } })
    // What a browser does whose text size is set to 200 %.
    const input = await person.context.newCDPSession(person.page)
    await input.send('Emulation.setPageScaleFactor', { pageScaleFactor: 1 })
    await person.page.evaluate(() => (document.documentElement.style.fontSize = '200%')).catch(() => {})
    model.answers(RICH)
    await chat.say('a longer message with several words in it')
    await chat.answers.last().locator('table').waitFor()
    await person.fitsTheWindow()
    for (const button of await person.page.locator('button:visible').all()) {
      const { width, scrollWidth } = await button.evaluate((element) => ({ width: element.clientWidth, scrollWidth: element.scrollWidth }))
      check(scrollWidth <= width + 1, `${await button.getAttribute('id')} is cut off`)
    }
  },

  async 'presses what is large enough'(person, { model }) {
    await person.arrive({ viewport: { width: 320, height: 640 } })
    await everyState(person, model, async (state) => {
      const small = await person.page.locator('button:visible, input:visible, textarea:visible, nav a:visible').evaluateAll((all) =>
        all.map((element) => [element.id || element.className, element.getBoundingClientRect()])
          .filter(([, { width, height }]) => width < 24 || height < 24)
          .map(([name, { width, height }]) => `${name} ${width}x${height}`),
      )
      same(small, [], `what is too small while ${state}`)
    })
  },

  async 'writes from right to left'(person, { model }) {
    const chat = await Chat.open(person)
    const said = 'مرحبا، من يجلس على الغصن؟'
    model.answers('# عنوان\n\nهذا **نص** عربي مع `code` داخله.\n\n- واحد\n- اثنان\n\n| اسم | عدد |\n|---|---|\n| سمكة | 3 |\n\n```js\nlet a = 1\n```\n\nשלום, English, עולם')
    await chat.say(said)
    await chat.answers.last().locator('table').waitFor()
    const direction = (locator) => locator.evaluate((element) => getComputedStyle(element).direction)
    const answer = chat.answers.last()
    same(await direction(chat.questions.last().locator('.text')), 'rtl', 'the direction of the question')
    for (const part of ['h3', 'p', 'ul', 'td']) same(await direction(answer.locator(`.prose ${part}`).first()), 'rtl', part)
    same(await direction(answer.locator('pre')), 'ltr', 'the direction of code')
    // What is within something else leaves it its edge: that of a quotation's bar, and of a list's marks.
    model.answers('> اقتباس من كتاب\n\n1. أول\n\n2. ثان\n\n- > داخل\n\n> - واحد\n\n> | اسم |\n> |---|\n> | سمكة |')
    await chat.say(said)
    await chat.answers.last().locator('table').waitFor()
    const wrong = await chat.answers.last().locator('.prose').evaluate((prose) =>
      [...prose.querySelectorAll('blockquote, ol, ul, li, p, table')].filter((element) => getComputedStyle(element).direction !== 'rtl').map((element) => element.outerHTML),
    )
    same(wrong, [], 'what is not from right to left')
    await person.fitsTheWindow()
  },

  async 'breaks lines of Chinese and Japanese, and of words without end'(person, { model }) {
    const chat = await Chat.open(person, { viewport: { width: 320, height: 640 }, colorScheme: 'dark', locale: 'ja-JP' })
    model.answers(`${'吾輩は猫である。名前はまだ無い。'.repeat(6)}\n\n${'perch'.repeat(40)}\n\n\`${'x'.repeat(200)}\`\n\n| ${'長い見出し'.repeat(6)} | b |\n|---|---|\n| 1 | 2 |`)
    await chat.say(`${'どこで生れたか頓と見当がつかぬ。'.repeat(4)}${'perch'.repeat(40)}`)
    await chat.answers.last().locator('table').waitFor()
    await person.fitsTheWindow()
  },

  ...Object.fromEntries(
    Object.entries({
      'ja-JP': ['新しい会話', '会話一覧', 'メッセージを入力', '停止しました', 'モデル|perch|回答'],
      'fr-CA': ['Nouvelle conversation', 'Conversations', 'Écrire à perch', 'Arrêté', 'modèle|perch'],
      'de-DE': ['New conversation', 'Conversations', 'Message perch', 'Stopped', 'chat'],
    }).map(([locale, [fresh, list, placeholder, stopped, why]]) => [
      `is spoken to in its language: ${locale}`,
      async (person, { model }) => {
        person.forgiven = REFUSED
        const chat = await Chat.open(person, { locale, viewport: { width: 768, height: 900 } })
        same(await person.page.evaluate(() => document.documentElement.lang), locale.startsWith('de') ? 'en' : locale.slice(0, 2), 'lang')
        await chat.button(fresh).waitFor()
        same(await chat.field.getAttribute('placeholder'), placeholder, 'the placeholder')
        await chat.talk('bonjour, こんにちは')
        model.answers('…', gate().opened)
        await chat.say('…')
        await chat.sees('…')
        await chat.field.press('Escape')
        await chat.answers.last().getByText(stopped, { exact: true }).waitFor()
        model.answers(401)
        await chat.say('fail')
        await chat.answers.last().locator('.why', { hasText: new RegExp(why) }).waitFor()
        await person.page.locator('#files').setInputFiles({ name: 'song.mp3', mimeType: 'audio/mpeg', buffer: Buffer.from('ID3') })
        await person.page.locator('#refusals p').waitFor()
        await person.screenshot('chat')
        await chat.button(list).click()
        await chat.list.first().waitFor()
        if (locale.startsWith('de')) return
        const english = /[A-Za-z]{4,}/g
        const shown = await person.page.evaluate(() => [
          ...[...document.querySelectorAll('[aria-label], [placeholder], [title]')].flatMap((element) => ['aria-label', 'placeholder', 'title'].map((name) => element.getAttribute(name))),
          ...[...document.querySelectorAll('button, label, h2, h3, .quiet, .state, .why, #greeting, #drop p')].map((element) => element.textContent),
        ].filter(Boolean))
        if (locale.startsWith('ja')) {
          const left = shown.flatMap((text) => text.match(english) ?? []).filter((word) => !/^(perch|JPEG|Enter|Shift|song|fail|bonjour)$/.test(word))
          same(left, [], 'what is left in English')
        }
      },
    ]),
  ),
})
