"""What the prompts of a calibration are made of: questions, tasks, and pieces of long documents.

Written for this purpose. What matters is their spread: short and long answers, prose, lists, code, scripts
that a tokenizer splits into bytes.
"""

SYSTEMS = (
    "",
    "You are a helpful assistant.",
    "Answer in three short paragraphs.",
    "You are a patient teacher. Explain with an everyday example.",
    "Answer as a list with one line for each point.",
)

SUBJECTS = (
    "how bread rises",
    "why the sea is salty",
    "what a mortgage is",
    "how to plan a week of cheap dinners",
    "the difference between a virus and a bacterium",
    "how a bicycle stays upright",
    "what makes a good apology",
    "how vaccines are tested",
    "why leaves change colour",
    "how to prepare for a job interview",
    "what a heat pump does",
    "how maps flatten a round world",
    "why some glass breaks and some does not",
    "how to learn to swim as an adult",
    "what inflation does to savings",
    "how a piano makes its sound",
    "why cats purr",
    "how to keep a small garden alive in a dry summer",
    "what happens to a letter after it is posted",
    "how a lighthouse was run before electricity",
    "why bridges have gaps",
    "how to write a short speech for a wedding",
    "what the moon does to the tides",
    "how to repair a torn coat",
    "why trains need so long to stop",
    "how a library sorts its books",
    "what to pack for three days in the mountains",
    "how chess clocks changed the game",
    "why rain smells",
    "how to tell a story to a child who will not sleep",
)

QUESTIONS = (
    "Explain {}.",
    "Tell me about {} in a few sentences.",
    "Write a short dialogue between two neighbours about {}.",
    "Give me five facts about {}.",
    "What do most people get wrong about {}?",
    "Summarise {} for a ten year old, then for an expert.",
)

LANGUAGES = ("Python", "JavaScript", "C", "Rust", "SQL", "a shell script")

TASKS = (
    "reads a CSV file and prints the sum of its second column",
    "reverses the words of a sentence and keeps the punctuation",
    "finds the longest run of equal numbers in a list",
    "merges two sorted lists into one",
    "counts how often each word occurs in a text",
    "checks whether brackets are balanced",
    "prints the first hundred primes",
    "turns a temperature from Celsius to Fahrenheit and back",
    "finds files that were changed in the last day",
    "keeps the ten largest values of a stream",
    "computes the distance between two points on a map",
    "splits a bill among friends, to the cent",
    "removes duplicate rows and keeps the newest one",
    "draws a triangle of stars",
    "parses a date such as 2024-03-09 and says the weekday",
    "retries a failing call with growing pauses",
    "finds the shortest path in a small maze",
    "compares two version numbers",
    "formats a number with thin spaces between thousands",
    "validates an e-mail address, roughly",
)

CODE_FORMS = (
    "Write a function in {language} that {task}. Add comments.",
    "In {language}: something that {task}. Then list three tests for it.",
    "Here is my plan: {language}, and it {task}. Write it, then explain each line.",
)

FOREIGN: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    (
        "German",
        ("Erkläre in wenigen Sätzen: {}.", "Schreibe ein kurzes Gedicht über {}.", "Was kostet uns {}?"),
        ("der Regen im April", "die Arbeit der Bienen", "ein alter Bahnhof", "das Brot vom Vortag"),
    ),
    (
        "French",
        ("Explique simplement {}.", "Écris une petite histoire avec {}.", "Donne cinq idées sur {}."),
        ("le vent du nord", "une lettre perdue", "la cuisine de ma tante", "un marché du matin"),
    ),
    (
        "Spanish",
        ("Explica brevemente {}.", "Escribe un cuento corto sobre {}.", "¿Qué sabes de {}?"),
        ("la sombra de un árbol", "el río en verano", "una bicicleta vieja", "los trenes de noche"),
    ),
    (
        "Polish",
        ("Opowiedz krótko o: {}.", "Napisz list, którego tematem jest {}.", "Dlaczego ważne jest: {}?"),
        ("zimowe jezioro", "stary zegar", "chleb na zakwasie", "droga do szkoły"),
    ),
    (
        "Turkish",
        ("Kısaca anlat: {}.", "Şu konuda bir şiir yaz: {}.", "Beş cümleyle açıkla: {}."),
        ("sabah çayı", "eski köprü", "denizin rengi", "köydeki okul"),
    ),
    (
        "Russian",
        ("Объясни простыми словами: {}.", "Напиши короткий рассказ: {}.", "Назови пять фактов: {}."),
        ("северное лето", "старый мост", "дорога домой", "хлеб и соль"),
    ),
    (
        "Greek",
        ("Εξήγησε με λίγα λόγια: {}.", "Γράψε μια μικρή ιστορία: {}.", "Τι ξέρεις για: {};"),
        ("το πρωινό λιμάνι", "ένα παλιό ρολόι", "η βροχή", "ο δρόμος για το σχολείο"),
    ),
    (
        "Arabic",
        ("اشرح باختصار: {}.", "اكتب قصة قصيرة عن: {}.", "اذكر خمس حقائق عن: {}."),
        ("سوق الصباح", "الطريق إلى المدرسة", "المطر", "البحر ليلا"),
    ),
    (
        "Hindi",
        ("संक्षेप में समझाओ: {}।", "इस पर एक छोटी कहानी लिखो: {}।", "पाँच बातें बताओ: {}।"),
        ("सुबह की चाय", "पुराना पुल", "गाँव की नदी", "बारिश के बाद की सड़क"),
    ),
    (
        "Japanese",
        (
            "{}について短く説明してください。",
            "{}の短い物語を書いてください。",
            "{}を五つの点で述べてください。",
        ),
        ("朝の市場", "古い橋", "雨の日", "学校への道"),
    ),
    (
        "Chinese",
        ("请简单解释{}。", "写一个关于{}的小故事。", "请说出关于{}的五件事。"),
        ("清晨的集市", "一座老桥", "下雨天", "回家的路"),
    ),
    (
        "Korean",
        ("{}에 대해 짧게 설명해 주세요.", "{}에 대한 짧은 이야기를 써 주세요.", "{}의 특징 다섯 가지는?"),
        ("아침 시장", "오래된 다리", "비 오는 날", "학교 가는 길"),
    ),
)
"""Language, forms of a question, things to ask about."""

PLACES = (
    "Aldermouth",
    "Brackwater",
    "Cinderford",
    "Dunmore",
    "Eastlea",
    "Fallowby",
    "Garrick",
    "Hollins",
    "Iverley",
    "Juniper Cross",
    "Kestrel Point",
    "Larkhill",
    "Merrow",
    "Northgate",
    "Oxley",
    "Pendry",
    "Quarrington",
    "Rushmere",
    "Saltham",
    "Thornwick",
)

PEOPLE = ("Ada", "Benno", "Carla", "Dmitri", "Esra", "Farid", "Greta", "Hana", "Ivo", "Jun", "Kofi", "Lena")
GOODS = ("rope", "lamp oil", "seed potatoes", "copper wire", "window glass", "wool", "paper", "salt", "tiles")

LONG_SENTENCES = (
    "On day {day} the harbour office of {place} counted {count} crates of {goods}, {less} too few.",
    "{person} wrote in the margin that the price of {goods} had gone from {less} to {count} within a week.",
    "The bridge at {place} was closed for {less} hours, and {count} carts took the road along the river.",
    "{person} and {other} agreed to meet at noon; neither said which of the two clocks of {place} was meant.",
    "A note of {day} lines was pinned to the door: whoever took the {goods} should bring {count} back.",
    "Nothing was recorded on day {day}, except that it rained and that {person} slept badly.",
    "The council of {place} voted {count} to {less} against a second well; {other} asked for a new count.",
    "In the ledger, entry {count} is struck out twice, and beside it stands the name of {person}.",
    "By evening the wind had turned, {count} boats were out, and {less} of them carried {goods}.",
    "{other} kept a list of what was lent: {goods} to {person}, {count} nails, a ladder, {less} sacks.",
    "The teacher of {place} let the children measure the square: {count} steps one way, {less} the other.",
    "When the mail came on day {day}, there were {less} letters for {person} and none for {other}.",
)

LONG_QUESTIONS = (
    "Summarise the notes above in six sentences.",
    "What happened to the {goods}? Answer with what the notes say.",
    "Write the next day's entry in the same style.",
    "List the people in the notes and one thing about each.",
    "Which numbers in the notes look wrong, and why?",
)
