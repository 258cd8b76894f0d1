"""Prompts of all kinds that are difficult for a tokenizer."""

from string import ascii_letters, punctuation

WHAT_USERS_WRITE = [
    "",
    "a",
    "a cat",
    "A photo of a CAT, sitting on a Red chair.",
    "A cat stretching on the floor, highly detailed, ultra sharp, cinematic, 100mm lens, 8k resolution.",
    "A dog playing with a ball in a sunny park, vibrant colors, high contrast, 50mm lens, 4k resolution.",
    "A serene mountain landscape at sunrise, soft lighting, wide angle, 16:9 aspect ratio, 6k resolution.",
    "Abstract geometric patterns in vibrant blues and oranges, modern art style, high contrast",
    "Same scene but at sunset with warm colors",
    "Portrait in the style of Van Gogh",
    "(masterpiece:1.2), [blurry|sharp], {{best quality}}, ((face))",
    "<lora:add_detail:0.7> a castle BREAK a river AND a bridge",
    "masterpiece,best quality,1girl,solo,upper_body,looking_at_viewer",
    "f/1.8, ISO 100, 1/250s, 35mm, -- ar 16:9 --v 5",
    "https://example.org/a?b=c&d=e#f someone@example.org C:\\Users\\me ~/x/*.png",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "cute-kawaii style; rock'n'roll, rock 'n' roll, O'Neill, d'Artagnan, '80s, 1980's",
    "\"double\" 'single' “curly” ‘curly’ «guillemets» „low“",
    "snake_case camelCase kebab-case SCREAMING_SNAKE",
    "wow!!! really??? yes... no…  -- – — ― !?!? ?!",
]
LONG = [
    "word " * 200,
    "a " * 74,
    "a " * 75,
    "a " * 76,
    "a" * 500,
    "!" * 500,
    "🎉" * 200,
    "日本" * 100,
    " ".join(f"number {i}," for i in range(100)),
    "supercalifragilisticexpialidocious " * 30,
    "e\u0301" * 200,
    "1234567890" * 20,
]
SPACE = [
    " ",
    "   ",
    "\t",
    "\n",
    "\r\n",
    "  leading and trailing  ",
    "tabs\tand\nnew\r\nlines\vand\fmore",
    "a\u00a0b\u1680c\u2000d\u2009e\u202ff\u205fg\u3000h\u2028i\u2029j\x85k",
    "a\x1cb\x1dc\x1ed\x1fe",
    "many     spaces      between",
]
INVISIBLE = [
    "zero\u200bwidth\u200cspace\u200djoin\ufeffer\u2060s",
    "\ufeffbyte order mark",
    "soft\u00adhyphen",
    "control\x00\x01\x02\x07\x08\x1b\x7f\x80\x9f characters",
    "right\u200fto\u200eleft\u202amarks\u202e\u202c\u2066\u2069",
    "\ufffd replacement \ufffe \uffff \ufdd0 non-characters",
    "private \ue000 \uf8ff \U000f0000 \U0010ffff use",
    "unassigned \u0378 \U0003ffff",
    "tag \U000e0067\U000e0062\U000e007f characters",
]
CONTRACTIONS = [
    *(
        f"{word}{tail}"
        for word in ("it", "IT", "x1", "é", "")
        for tail in ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
    ),
    *("DON'T", "Don't", "don’t", "they'RE", "I'M", "we'LL", "he'D", "rock'S"),
    *("''s", "!'s", "'s's", "'sun", "'tis", "'dad", "'really", "a'b", "a 's", "'", "''", "1's", "日's"),
]
MARKUP = [
    "&amp;",
    "&amp;amp;",
    "&lt;b&gt; bold &lt;/b&gt;",
    "&quot;quoted&quot; &apos;x&apos;",
    "&#39; &#x27; &#128512; &nbsp; &eacute;",
    "fish & chips && more &",
    "<b>bold</b> <br/> <!-- comment -->",
    "&notanentity; &amp",
    "</w>",
    "a</w>b word</w>",
    "<|startoftext|>",
    "<|endoftext|>",
    "a <|endoftext|> b <|startoftext|> c",
    "a<|endoftext|>b",
    "<|ENDOFTEXT|> <|EndOfText|>",
    "<|endoftext|" + ">" * 3,
    "<|endoftext|>" * 100,
    "\\n \\t \\u00e9 %20 %C3%A9",
]
ACCENTS = [
    "naïve café résumé Ångström façade jalapeño Zürich smörgåsbord",
    "nai\u0308ve cafe\u0301 re\u0301sume\u0301 A\u030angstro\u0308m",  # the same, decomposed
    "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖØÙÚÛÜÝÞß",
    "àáâãäåæçèéêëìíîïðñòóôõöøùúûüýþÿ",
    "ĀĂĄĆĈĊČĎĐĒĔĖĘĚĜĞĠĢĤĦĨĪĬĮİıĲĴĶĹĻĽĿŁŃŅŇŊŌŎŐŒŔŖŘŚŜŞŠŢŤŦŨŪŬŮŰŲŴŶŸŹŻŽ",
    "İstanbul ıspanak I i İ",
    "ǅ ǈ ǋ ǲ Ǆ ǆ",
    "straße STRASSE ẞ ﬁne ﬀ ﬃ ſ",
    "K Å Ω µ ª º",  # Kelvin, Ångström and Ohm signs among them
    "Z̸̢̛͓͇͎a̷͙͋l̶̰̀g̵̱̃o̴̻̽",
    "\u0301a \u0301 \u0308\u0301 x\u0327\u0301 x\u0301\u0327",
    "q\u0323\u0307 q\u0307\u0323 \u1e9b\u0323",
    "Việt Nam: Tiếng Việt có dấu; đường phố Hà Nội",
    "Dvořák, Łódź, Škoda, Þór, Ægir, œuvre, Curaçao",
]
EMOJI = [
    "🎉",
    "😀 😃 😄",
    "a🎉b",
    "👍🏽 👩🏿‍🚀",
    "👨‍👩‍👧‍👦",
    "👩‍❤️‍💋‍👨",
    "🏳️‍🌈 🏴‍☠️",
    "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
    "🇩🇪🇫🇷 🇯🇵",
    "1️⃣ #️⃣ *️⃣",
    "❤ ❤️ ❤︎ ☺️ ☎︎",
    "cat 🐱 dog 🐶, fox🦊!",
    "🫠🫶🏼🪿🫨",
    "(╯°□°)╯︵ ┻━┻ ¯\\_(ツ)_/¯ ʕ•ᴥ•ʔ",
]
GREEK_AND_CYRILLIC = [
    "ΣΑΣ ΟΔΟΣ ὈΔΥΣΣΕΎΣ Σ ς σ",
    "Ἀχιλλεὺς ᾳ ᾼ ΐ ΰ ΅ Ὦ",
    "Ελληνικά: μια γάτα στον ήλιο",
    "Кошка на окне, ЁЖИК в тумане",
    "Й и\u0306 Ї і\u0308 ґ Ґ",
    "ДОБРЫЙ ДЕНЬ, добрый день!",
    "Српски / srpski Ђ Љ Њ Џ ћ",
    "Ꙁ ꙗ Ѣ ѣ Ѳ Ѵ",
    "Հայերեն ԿԱՏՈՒ և",
    "ქართული Ⴀ Ა ა",
    "Ꭰ ꭰ Ꮳ Ᏸ",
]
EAST_ASIA = [
    "日本語のプロンプト、猫が窓辺に座っている。",
    "一只猫坐在窗台上，高清，电影感。",
    "繁體中文：龍與鳳",
    "한국어 프롬프트: 고양이 한 마리",
    "\u1112\u1161\u11ab\u1100\u1173\u11af",  # Hangul as conjoining letters
    "ｆｕｌｌ　ｗｉｄｔｈ！？ １２３ ｶﾀｶﾅ ﾊﾟ",
    "が か\u3099 パ ハ\u309a",
    "々〆〇〻 ㍿ ㈱ ㊙",
    "猫cat猫 2匹の猫 第3章",
    "𠮷野家 𩸽 \U0002f800",
    "豈 更 車 神\ufe00 葛\U000e0100",  # compatibility ideographs, variation selectors
    "ㄅㄆㄇㄈ ꀀꀁ ᠮᠣᠩᠭᠣᠯ བོད་སྐད་",
]
SOUTH_ASIA_AND_NEAR_EAST = [
    "قطة على النافذة، صورة عالية الدقة؟",
    "مُحَمَّدٌ ـــ لا ﷺ ﷲ ٠١٢٣٤٥٦٧٨٩",
    "گربه‌ای روی پنجره، می‌خواهم ۱۲۳",
    "אֶחָד חתול על החלון שָׁלוֹם",
    "नमस्ते दुनिया, खिड़की पर बिल्ली क्ष ज्ञ श्री १२३",
    "क\u093c क़ ड\u093c ড\u09bc",
    "বাংলা ভাষা, জানালায় বিড়াল",
    "தமிழ் பூனை ஜன்னலில் ௧௨௩",
    "తెలుగు పిల్లి ಕನ್ನಡ ಬೆಕ್ಕು മലയാളം പൂച്ച",
    "ਪੰਜਾਬੀ ગુજરાતી ଓଡ଼ିଆ සිංහල",
    "แมวนั่งอยู่ริมหน้าต่าง น้ำ กำ ๑๒๓",
    "ພາສາລາວ ភាសាខ្មែរ မြန်မာဘာသာ",
    "አማርኛ ድመት ፩፪፫",
    "ⵜⴰⵎⴰⵣⵉⵖⵜ ߒߞߏ",
]
NUMBERS_AND_SIGNS = [
    "0 1 12 123 1234 12345 3.14159 1,000,000 1e-5 0x1F",
    "½ ⅓ ¾ ² ³ ¹ ⁴ ₅ Ⅳ ⅷ ① ⓐ Ⓐ ㈠ 〇",
    "٣ ३ ๓ ３ 𝟛 𝟯 𐒣 𑁩",
    "100% $5 €10 £3 ¥7 ₹9 ₿ ¢ ¤",
    "1+1=2, 3×4÷5≠6 ±√∞≈≤≥∑∫∂∆∇∈∀∃",
    "→ ← ↑ ⇒ ↔ ★ ☆ ● ■ ▲ ♥ ♫ ✓ ✗ ☃",
    "© ® ™ § ¶ † ‡ • ‰ № ℃ ℉ ℓ ℮",
    "𝓯𝓪𝓷𝓬𝔂 𝔉𝔯𝔞𝔨𝔱𝔲𝔯 𝒮𝒸𝓇𝒾𝓅𝓉 𝐛𝐨𝐥𝐝 ᵗⁱⁿʸ ˢᵘᵖᵉʳ",
    "x² + y² = r², H₂O, CO₂, 10⁻³, E=mc²",
    "16:9 4:3 50/50 24/7 3-2-1 5'11\" 90° 45′ 30″",
    "12am 3D 4K 8k 100mm 2nd 1st v1.5 SDXL1.0 a1b2c3",
    "█▓▒░ ┌─┐│└┘ ⠓⠑⠇⠇⠕ ♔♕ 🀄 🂡 🎲",
    "𐍈 𒀀 𓂀 𐤀 𝄞 𑀓",
]
ASCII = [
    *punctuation,
    *(f"a{sign}b {sign}{sign} c{sign}" for sign in punctuation),
    *ascii_letters,
]

PROMPTS = [
    *WHAT_USERS_WRITE,
    *LONG,
    *SPACE,
    *INVISIBLE,
    *CONTRACTIONS,
    *MARKUP,
    *ACCENTS,
    *EMOJI,
    *GREEK_AND_CYRILLIC,
    *EAST_ASIA,
    *SOUTH_ASIA_AND_NEAR_EAST,
    *NUMBERS_AND_SIGNS,
    *ASCII,
]
