// How the chat page shows what a model writes.
//   node markdown.mjs --perch target/debug/perch [--screenshots DIR] [--only NAME]

import { check, same, tell } from './browser.mjs'
import { Chat, stage } from './chatting.mjs'
import { gate } from './model.mjs'

const SAMPLE = `# A day at the river

The *perch* is a **very good** fish, \`Perca fluviatilis\`, ~~or~~ as [an encyclopedia](https://example.org/perch "Perch") says.
Seen at https://example.org/a_(b), they say.

## What to bring

1. A rod
   - light
   - short
2. Some **patience**
3. A box, with
   \`\`\`python
   def catch(fish):
       return "*" + fish  # not emphasis
   \`\`\`

- [x] boots
- [ ] hat

> Still waters
> run deep.
>
> > Indeed.

| fish | length | price |
|:-----|:------:|------:|
| perch | 20 cm | 3 € |
| pike \\| jack | 60 cm | **9** € |

---

\`\`\`js
const bird = { name: "perch" }

// <script>alert(1)</script>
\`\`\`

**日本語の強調。**が続く。\\*not emphasis\\* 2 * 3 * 4, snake_case_name, 10~20.
`

/** Shows `source` as the page would, and returns it as HTML. */
const rendered = async (page, sources, open = false) =>
  page.evaluate(
    async ([texts, more]) => {
      const { Prose } = await import(document.querySelector('[href$="markdown.js"]').href)
      return texts.map((text) => {
        const container = document.createElement('div')
        new Prose(container).set(text, more)
        return container.innerHTML
          .replaceAll(' dir="auto"', '')
          .replaceAll(/ target="_blank" rel="noopener noreferrer" title="[^"]*"/g, '')
      })
    },
    [sources, open],
  )

async function means(page, cases, open) {
  const seen = await rendered(page, Object.keys(cases), open)
  const wrong = Object.entries(cases).flatMap(([source, wanted], index) =>
    seen[index] === wanted ? [] : [`${JSON.stringify(source)} is ${seen[index]}, not ${wanted}`],
  )
  check(wrong.length === 0, wrong.join('\n'))
}

await tell('markdown', stage, {
  async 'reads an answer as it is meant'(person, { model }) {
    const chat = await Chat.open(person, { viewport: { width: 1280, height: 1700 } })
    model.answers(SAMPLE)
    await chat.say('tell me about the day')
    await chat.button('Stop').waitFor({ state: 'hidden' })
    const prose = chat.answers.last().locator('.prose')
    same(await prose.getByRole('heading').allInnerTexts(), ['A day at the river', 'What to bring'], 'the headings')
    same(await prose.locator('strong').allInnerTexts(), ['very good', 'patience', '9', '日本語の強調。'], 'what is strong')
    same(await prose.locator('em').allInnerTexts(), ['perch'], 'what is emphasized')
    const links = await prose.getByRole('link').evaluateAll((all) => all.map(({ href, rel }) => `${href} ${rel}`))
    const rel = 'noopener noreferrer'
    same(links, [`https://example.org/perch ${rel}`, `https://example.org/a_(b) ${rel}`], 'the links')
    same(await prose.locator('figure .language').allInnerTexts(), ['python', 'js'], 'the languages')
    same(await prose.getByRole('cell').allInnerTexts(), ['perch', '20 cm', '3 €', 'pike | jack', '60 cm', '9 €'], 'the cells')
  },

  async 'copies code, and the whole answer as it was written'(person, { model }) {
    const chat = await Chat.open(person, { permissions: ['clipboard-read', 'clipboard-write'] })
    model.answers('Run **this**:\n\n```sh\nperch dev\n\tindented\n```\n')
    await chat.say('how?')
    await chat.button('Copy the code').click()
    await person.page.getByText('Copied', { exact: true }).first().waitFor()
    const pasted = () => person.page.evaluate(() => navigator.clipboard.readText())
    same(await pasted(), 'perch dev\n\tindented', 'what is copied')
    await chat.button('Copy the answer').click()
    await person.page.waitForFunction(async () => (await navigator.clipboard.readText()).startsWith('Run **this**'))
  },

  async 'copies where there is no HTTPS, and so no clipboard to ask'(person, { model }) {
    await person.arrive()
    await person.page.addInitScript(() => Object.defineProperty(navigator, 'clipboard', { value: undefined }))
    await person.page.reload()
    const chat = new Chat(person)
    model.answers('```\nperch dev\n```')
    await chat.say('how?')
    await chat.button('Copy the code').click()
    await person.page.getByText('Copied', { exact: true }).first().waitFor()
    await chat.field.press('Control+V')
    same(await chat.field.inputValue(), 'perch dev', 'what is pasted')
  },

  async 'sees no marks of what is half written'(person, { model }) {
    const chat = await Chat.open(person)
    const steps = [
      ['This is **bo', 'This is bo'],
      ['ld** and `co', 'This is bold and co'],
      ['de` and [a li', 'This is bold and code and [a li'],
      ['nk](https://exam', 'This is bold and code and a link'],
      ['ple.org).', 'This is bold and code and a link.'],
      ['\n\n| a | b', 'a b'],
      [' |\n|--', 'a b'],
      ['-|---|\n| 1 ', 'a b 1'],
      ['| 2 |\n\n``', 'a b 1 2'],
      ['`js\nlet a', 'let a'],
      [' = 1\n``', 'let a = 1'],
      ['`\n\nThe end', 'The end'],
    ]
    const gates = steps.map(() => gate())
    model.answers(...steps.flatMap(([piece], index) => [piece, gates[index].opened]))
    await chat.say('slowly')
    let written = ''
    for (const [index, [piece, seen]] of steps.entries()) {
      written += piece
      const last = await person.page
        .waitForFunction((wanted) => {
          const blocks = [...document.querySelectorAll('.prose:last-child > *, .prose > *')]
          const text = (block) => (block.querySelector('pre') ?? block).innerText.replaceAll(/\s+/g, ' ').trim()
          return blocks.length && text(blocks.at(-1)) === wanted ? text(blocks.at(-1)) : null
        }, seen, { timeout: 5_000 })
        .catch(async () => {
          throw new Error(`after ${JSON.stringify(written)} it is ${await chat.answers.last().locator('.prose').innerHTML()}`)
        })
      check(last, 'nothing is seen')
      if (index === 7) await person.screenshot('table')
      gates[index].open()
    }
    await chat.button('Stop').waitFor({ state: 'hidden' })
  },

  async 'sees the same, however it is cut into pieces'(person) {
    await person.arrive()
    const differences = await person.page.evaluate(async (sample) => {
      const { Prose } = await import(document.querySelector('[href$="markdown.js"]').href)
      const whole = (text, open) => {
        const container = document.createElement('div')
        new Prose(container).set(text, open)
        return container.innerHTML
      }
      const found = []
      for (const stride of [1, 3, 7, 64]) {
        const container = document.createElement('div')
        const prose = new Prose(container)
        for (let end = stride; end < sample.length; end += stride) {
          prose.set(sample.slice(0, end), true)
          if (container.innerHTML !== whole(sample.slice(0, end), true)) found.push(sample.slice(0, end))
        }
        prose.set(sample, false)
        if (container.innerHTML !== whole(sample, false)) found.push(`all of it, by ${stride}`)
      }
      return found
    }, `${SAMPLE}\n${SAMPLE.replaceAll('\n', '\r\n')}`)
    same(differences.slice(0, 2), [], 'what differs')
  },

  async 'reads each mark as CommonMark and GitHub mean it'(person) {
    await person.arrive()
    await means(person.page, {
      'a *b* __c__ _d_ ***e***': '<p>a <em>b</em> <strong>c</strong> <em>d</em> <em><strong>e</strong></em></p>',
      'snake_case_name and 2 * 3 * 4': '<p>snake_case_name and 2 * 3 * 4</p>',
      '**a *b* c**': '<p><strong>a <em>b</em> c</strong></p>',
      '*a **b***': '<p><em>a <strong>b</strong></em></p>',
      '**open': '<p>**open</p>',
      'a ~~b~~ c, 10~20~30': '<p>a <del>b</del> c, 10~20~30</p>',
      '**「強調」**です': '<p><strong>「強調」</strong>です</p>',
      '`` a`b `` and `c': '<p><code>a`b</code> and `c</p>',
      '\\*a\\* \\[b\\](c) \\a': '<p>*a* [b](c) \\a</p>',
      'one\ntwo': '<p>one<br>two</p>',
      '[a](https://b.example/(c) "t") [d](e) [f]': '<p><a href="https://b.example/(c)">a</a> [d](e) [f]</p>',
      '![alt](https://b.example/i.png)': '<p><a href="https://b.example/i.png">alt</a></p>',
      '<https://b.example/> <mailto:a@b.example> <b>': '<p><a href="https://b.example/">https://b.example/</a> <a href="mailto:a@b.example">mailto:a@b.example</a> &lt;b&gt;</p>',
      'see https://b.example/a. (https://b.example/(c))': '<p>see <a href="https://b.example/a">https://b.example/a</a>. (<a href="https://b.example/(c)">https://b.example/(c)</a>)</p>',
      'ここ https://b.example/。次': '<p>ここ <a href="https://b.example/%E3%80%82%E6%AC%A1">https://b.example/。次</a></p>',
      '- a\n- b\n\n  c': '<ul><li><p>a</p></li><li><p>b</p><p>c</p></li></ul>',
      '1. a\n  - b\n2. c': '<ol><li>a<ul><li>b</li></ul></li><li>c</li></ol>',
      '3) a\n4) b': '<ol start="3"><li>a</li><li>b</li></ol>',
      '- a\n* b': '<ul><li>a</li></ul><ul><li>b</li></ul>',
      '-\n-': '<ul><li></li><li></li></ul>',
      'in 1999. was\n2. no list': '<p>in 1999. was<br>2. no list</p>',
      '> a\nb\n> - c': '<blockquote><p>a<br>b</p><ul><li>c</li></ul></blockquote>',
      '### a ###\n# b': '<h3 class="size-3">a</h3><h3 class="size-1">b</h3>',
      '## a\n#### b\n###### c\n#d': '<h3 class="size-2">a</h3><h4 class="size-4">b</h4><h5 class="size-6">c</h5><p>#d</p>',
      'a\n---\nb\n***': '<p>a</p><hr><p>b</p><hr>',
      '&amp; &lt;script&gt; <br> <!-- a -->': '<p>&amp;amp; &amp;lt;script&amp;gt; &lt;br&gt; &lt;!-- a --&gt;</p>',
    })
    const table = await rendered(person.page, ['a | b\n-|:-:\nc<br>d | \\| `e`\n\nf | g'])
    same(
      table[0].replace(/<div[^>]*>/, ''),
      '<table><thead><tr><th scope="col">a</th><th class="center" scope="col">b</th></tr></thead><tbody><tr><td>c<br>d</td><td class="center">| <code>e</code></td></tr></tbody></table></div><p>f | g</p>',
      'the table',
    )
  },

  async 'goes on, whatever a model in a loop writes'(person) {
    await person.arrive()
    const slow = await person.page.evaluate(async () => {
      const { Prose } = await import(document.querySelector('[href$="markdown.js"]').href)
      const size = 40_000
      const hard = {
        stars: '*a '.repeat(size / 3), closers: 'a* '.repeat(size / 3), mixed: '*_~~'.repeat(size / 4), deep: '*a **b '.repeat(size / 7),
        brackets: '['.repeat(size), links: '[a]('.repeat(size / 4), images: '![a](b'.repeat(size / 6), ticks: Array.from({ length: 340 }, (_, n) => '`'.repeat(n)).join(' '),
        quotes: '>'.repeat(size), lists: '- '.repeat(size / 2), nested: Array.from({ length: 340 }, (_, n) => `${' '.repeat(n)}- a`).join('\n'),
        pipes: '|'.repeat(size), tables: '|-|\n'.repeat(size / 4), hashes: `# a${' #'.repeat(size / 2)}b`, spaces: `#${' '.repeat(size)}a`,
        rules: `${'- '.repeat(size / 2)}a`, url: `https://a${')'.repeat(size)}`, urls: 'https://a.b '.repeat(size / 12), fences: '```\n'.repeat(size / 4), angles: '<https://'.repeat(size / 9),
        escapes: '\\'.repeat(size), marks: `${'**'.repeat(size / 2)}a`, around: `${'*'.repeat(size / 2)}a${'*'.repeat(size / 2)}`, pairs: '**a** '.repeat(size / 6),
        strikes: `${'~~a '.repeat(size / 8)}${'a~~ '.repeat(size / 8)}`, inner: `${'*a '.repeat(size / 6)}${'a* '.repeat(size / 6)}`, across: `${'_a\n'.repeat(size / 6)}${'a_\n'.repeat(size / 6)}`,
        bullets: `${'* '.repeat(size / 2)}a`, bulletLines: `${'* '.repeat(size / 4)}a\n`.repeat(2), numbers: `${'1. '.repeat(size / 3)}a`, neutral: `- ${'*\n  '.repeat(size / 4)}a`, items: '- \n'.repeat(size / 3),
        quoted: `${'> '.repeat(size / 2)}a`, quotedLines: '> > > > a\n'.repeat(size / 10), quotedLists: '> - '.repeat(size / 4), deepQuotes: Array.from({ length: 280 }, (_, n) => `${'>'.repeat(n)}a`).join('\n'),
        tick: '`'.repeat(size), tickPairs: '` `` '.repeat(size / 5), wide: `${'|a'.repeat(size / 8)}\n${'|-'.repeat(size / 8)}\n${'|\n'.repeat(size / 4)}`, long: `${'|a'.repeat(50)}\n${'|-'.repeat(50)}\n${'|\n'.repeat(size / 2.2)}`, cells: `|a|b|\n|-|-|\n${'|'.repeat(size)}`,
        closing: ']('.repeat(size / 2), pictures: '!['.repeat(size / 2), openLinks: `[a](https://a${'('.repeat(size)}`, parentheses: `https://a${')'.repeat(1_990)} `.repeat(size / 2_000), words: 'perch '.repeat(size / 6), lines: 'perch\n'.repeat(size / 6),
      }
      const found = []
      for (const [name, text] of Object.entries(hard)) {
        const container = document.createElement('div')
        document.body.append(container)
        let took = Infinity
        // Others may use the processor meanwhile.
        for (let tries = 0; took > 2_000 && tries < 3; tries += 1) {
          container.replaceChildren()
          const begun = performance.now()
          const prose = new Prose(container)
          prose.set(text.slice(0, size / 2), true)
          prose.set(text, true)
          prose.set(text, false)
          container.getBoundingClientRect()
          took = Math.min(took, performance.now() - begun)
        }
        if (took > 2_000) found.push(`${name}: ${Math.round(took)} ms`)
        let [nodes, depth] = [0, 0]
        const walker = document.createTreeWalker(container)
        while (walker.nextNode()) {
          nodes += 1
          let deep = 0
          for (let node = walker.currentNode; node !== container; node = node.parentNode) deep += 1
          depth = Math.max(depth, deep)
        }
        // A block of code is eleven nodes, and is written with eight characters.
        if (nodes > 1.5 * size) found.push(`${name}: ${nodes} nodes`)
        if (depth > 64) found.push(`${name}: ${depth} elements within each other`)
        container.remove()
      }
      return found
    })
    same(slow, [], 'what is slow, or large')
  },
})
