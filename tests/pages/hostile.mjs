// What the chat page does with text that would rather be a script.
//   node hostile.mjs --perch target/debug/perch [--screenshots DIR] [--only NAME]

import { check, same, tell } from './browser.mjs'
import { Chat, stage } from './chatting.mjs'

const PAYLOADS = [
  '<script>stolen()</script>',
  '"><script>stolen()</script>',
  '</script><script>stolen()</script>',
  '</textarea><script>stolen()</script>',
  '</title><script>stolen()</script>',
  '<img src=x onerror=stolen()>',
  '<img src=x:x onerror="stolen()">',
  '<IMG SRC="jav&#x09;ascript:stolen();">',
  '<svg onload=stolen()>',
  '<svg><script>stolen()</script></svg>',
  '<svg><animate onbegin=stolen() attributeName=x dur=1s>',
  '<math><mtext><table><mglyph><style><img src=x onerror=stolen()>',
  '<body onload=stolen()>',
  '<iframe src="javascript:stolen()"></iframe>',
  '<iframe srcdoc="<script>parent.stolen()</script>"></iframe>',
  '<object data="javascript:stolen()">',
  '<embed src="data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9YWxlcnQoMSk+">',
  '<a href="javascript:stolen()">click</a>',
  '<details open ontoggle=stolen()>',
  '<input autofocus onfocus=stolen()>',
  '<video><source onerror="stolen()"></video>',
  '<marquee onstart=stolen()>',
  '<base href="https://evil.example/">',
  '<meta http-equiv="refresh" content="0;url=javascript:stolen()">',
  '<link rel=stylesheet href="https://evil.example/x.css">',
  '<form action="javascript:stolen()"><button>go</button></form>',
  '<style>@import "https://evil.example/x.css";</style>',
  '<div style="background:url(javascript:stolen())">',
  '<template><img src=x onerror=stolen()></template>',
  '<noscript><p title="</noscript><img src=x onerror=stolen()>">',
  '&lt;script&gt;stolen()&lt;/script&gt;',
  '&#60;script&#62;stolen()&#60;/script&#62;',
  '{{constructor.constructor("stolen()")()}}',
  '${stolen()}',
  "';stolen();//",
  '" onmouseover="stolen()" x="',
  'javascript:stolen()',
  '\u202e<script>stolen()</script>\u202c',
  '\ufeff<script>stolen()</script>',
  '<scr\u0000ipt>stolen()</scr\u0000ipt>'.replaceAll('\u0000', '\u200b'),
]

/** Markdown whose links lead where none may lead; each is seen as it is written. */
const LINKS = [
  '[click](javascript:stolen())',
  '[click](JaVaScRiPt:stolen())',
  '[click](java%0ascript:stolen())',
  '[click]( javascript:stolen() )',
  '[click](<javascript:stolen()>)',
  '[click](data:text/html,<script>stolen()</script>)',
  '[click](data:text/html;base64,PHNjcmlwdD5zdG9sZW4oKTwvc2NyaXB0Pg==)',
  '[click](vbscript:stolen())',
  '[click](blob:https://evil.example/1)',
  '[click](file:///etc/passwd)',
  '[click](//evil.example/)',
  '![click](javascript:stolen())',
  '<javascript:stolen()>',
]

async function open(person, options) {
  await person.arrive(options)
  await person.page.exposeFunction('stolen', () => person.complaints.push('a script ran'))
  person.page.on('request', (request) => {
    if (!request.url().startsWith(person.address) && !request.url().startsWith('blob:')) {
      person.complaints.push(`the page asked for ${request.url()}`)
    }
  })
  person.page.on('dialog', (dialog) => (person.complaints.push('a dialog opened'), dialog.dismiss()))
  return new Chat(person)
}

/** Nothing but the page's own elements may be in it. */
async function isOnlyText(chat, within) {
  const made = await chat.page
    .locator(within)
    .locator('script, img:not([src^="blob:"]), svg:not(.icon), iframe, object, embed, form, input, style, link, meta, base, video, math, details, marquee, template, noscript, [onload], [onerror], [style]')
    .evaluateAll((all) => all.map((element) => element.outerHTML))
  same(made, [], 'what was made from text')
}

/** Links are to the web and to people, and know nothing of the page. */
async function leadsNowhereElse(chat) {
  const links = await chat.log.locator('a').evaluateAll((all) => all.map(({ protocol, rel }) => `${protocol} ${rel}`))
  same([...new Set(links)], ['https: noopener noreferrer'], 'where the links lead')
}

await tell('hostile text', stage, {
  async 'writes scripts, and sees them as they were written'(person, { model }) {
    const chat = await open(person)
    for (const [index, payload] of PAYLOADS.entries()) {
      model.answers('…')
      await chat.say(payload)
      await chat.questions.nth(index).waitFor()
      await chat.button('Stop').waitFor({ state: 'hidden' })
    }
    same(await chat.questions.locator('.text').evaluateAll((all) => all.map((p) => p.textContent)), PAYLOADS, 'what was said')
    await isOnlyText(chat, '#log')
    await person.page.reload()
    await chat.questions.nth(PAYLOADS.length - 1).waitFor()
    same(await chat.questions.locator('.text').evaluateAll((all) => all.map((p) => p.textContent)), PAYLOADS, 'what was said')
    await isOnlyText(chat, '#log')
  },

  async 'hears scripts from the model, and sees them as they were written'(person, { model }) {
    const chat = await open(person)
    for (const payload of [...PAYLOADS, ...LINKS]) {
      // In pieces, so that what is half written is seen as well.
      model.answers(...payload.match(/.{1,5}/gsu))
      await chat.say('say something')
      await chat.hears(payload.trim())
    }
    await isOnlyText(chat, '#log')
    await leadsNowhereElse(chat)
  },

  async 'hears scripts wrapped in markdown'(person, { model }) {
    const chat = await open(person)
    const text = PAYLOADS.map((payload) => payload.replaceAll('|', ''))
    model.answers(
      [
        ...text.map((payload) => `# ${payload}`),
        ...text.map((payload) => `- ${payload}`),
        '',
        ...text.map((payload) => `> ${payload}\n`),
        ...text.map((payload) => `**${payload}** [${payload.replaceAll(/[[\]]/g, '')}](https://example.org/${encodeURI(payload)})\n`),
        ...text.map((payload) => `\`${payload}\`\n`),
        ...text.map((payload) => `\`\`\`${payload}\n${payload}\n\`\`\`\n`),
        '| a | b |\n|---|---|',
        ...text.map((payload) => `| ${payload} | ${payload} |`),
      ].join('\n'),
    )
    await chat.say('say it all')
    await chat.button('Stop').waitFor({ state: 'hidden' })
    await isOnlyText(chat, '#log')
    same(await chat.log.locator('figure code').evaluateAll((all) => all.map((code) => code.textContent)), text, 'the code')
    await leadsNowhereElse(chat)
  },

  async 'finds conversations whose titles are scripts'(person, { model }) {
    const chat = await open(person)
    const titles = PAYLOADS.filter((payload) => payload === payload.trim() && payload.length <= 60)
    for (const title of titles) {
      model.answers('…')
      await person.context.request.post(`${person.address}/api/chat`, { data: { message: title } })
    }
    await person.page.reload()
    await chat.list.nth(titles.length - 1).waitFor()
    const listed = await chat.list.evaluateAll((all) => all.map((link) => link.textContent))
    // Titles are one line, and perch takes out what can't be seen.
    const plain = (text) => text.replaceAll(/[\u200b\u202c\u202e\ufeff]/g, '')
    same(listed.map(plain).toSorted(), titles.map(plain).toSorted(), 'the list')
    await isOnlyText(chat, '#sidebar')
    await chat.list.first().click()
    await chat.questions.first().waitFor()
    check((await person.page.title()).endsWith(' · perch'), `the title is ${await person.page.title()}`)
    await person.page.locator('#list .bin').first().click()
    await isOnlyText(chat, 'dialog')
    await chat.button('Cancel').click()
  },

  async 'attaches files whose names are scripts'(person, { model }) {
    const chat = await open(person)
    const names = PAYLOADS.filter((name) => !/[/\\]/.test(name)).map((name) => `${name}.pdf`)
    for (let at = 0; at < names.length; at += 4) {
      const files = names.slice(at, at + 4).map((name) => ({ name, mimeType: 'application/pdf', buffer: Buffer.from('%PDF-1.4\n%%EOF\n') }))
      await person.page.locator('#files').setInputFiles(files)
      await person.page.locator('#attached .name').nth(files.length - 1).waitFor()
      same(await person.page.locator('#attached .name').allTextContents(), files.map(({ name }) => name), 'the names')
      await isOnlyText(chat, '#attached')
      for (const _ of files) await person.page.locator('#attached button').first().click()
    }
    const refused = names.slice(0, 12).map((name) => ({ name: name.replace('.pdf', '.exe'), mimeType: 'application/x', buffer: Buffer.from('MZ') }))
    await person.page.locator('#files').setInputFiles(refused)
    await person.page.getByText('is not a PDF, PNG, JPEG or GIF.').nth(11).waitFor()
    await isOnlyText(chat, '#refused')
    model.answers('…')
  },

  async 'is told of errors that are scripts'(person) {
    person.forgiven = /\/api\//
    const chat = await open(person)
    const detail = PAYLOADS.slice(0, 20).join(' ')
    await person.page.route('**/api/chat', (route) =>
      route.fulfill({
        status: 500,
        contentType: 'application/problem+json',
        body: JSON.stringify({ detail, request_id: '<img src=x onerror=stolen()>' }),
      }),
    )
    await chat.say('fail')
    await chat.log.getByText('Request <img src=x onerror=stolen()>').waitFor()
    check((await chat.log.locator('.why').textContent()).startsWith(detail.slice(0, 200)), 'the detail is not as it was said')
    await isOnlyText(chat, '#log')
  },
})
