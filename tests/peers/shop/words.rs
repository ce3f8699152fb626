//! What a Mexican hardware and stationery shop writes down, and the characters that break imports.

use rand::RngExt;
use rand::rngs::SmallRng;

const NOUNS: [&str; 32] = [
    "Taladro",
    "Lápiz",
    "Tubería",
    "Cañería",
    "Martillo",
    "Plátano",
    "Champú",
    "Jabón",
    "Cuaderno",
    "Desarmador",
    "Ñoquis",
    "Atún",
    "Frijól",
    "Maíz",
    "Limón",
    "Válvula",
    "Acrílico",
    "Papelería",
    "Cáñamo",
    "Azúcar",
    "Algodón",
    "Cinchó",
    "Batería",
    "Cartón",
    "Pegamento",
    "Lámpara",
    "Extensión",
    "Bisagra",
    "Clavo",
    "Pintura vinílica",
    "Impermeabilizante",
    "Muñeca",
];

const ADJECTIVES: [&str; 28] = [
    "rojo",
    "azul",
    "niño",
    "adulto",
    "clásico",
    "premium",
    "español",
    "económico",
    "rápido",
    "inalámbrico",
    "eléctrico",
    "galvanizado",
    "de línea",
    "tamaño grande",
    "c/10",
    "1kg",
    "500 ml",
    "1/2\"",
    "3/4\"",
    "d'oro",
    "100%",
    "\"extra\"",
    "sin azúcar",
    "sólido",
    "único",
    "nº 5",
    "(caja)",
    "2×4",
];

const GIVEN: [&str; 16] = [
    "José", "María", "Ángel", "Íñigo", "Ximena", "Óscar", "Lucía", "Ramón", "Begoña", "Andrés",
    "Zoë", "Raúl", "Inés", "Martín", "Sofía", "Joaquín",
];

const FAMILY: [&str; 16] = [
    "Núñez",
    "Pérez",
    "O'Farrill",
    "Muñoz",
    "García",
    "Ibáñez",
    "Güereña",
    "López",
    "Peña",
    "Sánchez",
    "Ávila",
    "Ruiz",
    "Zúñiga",
    "Hernández",
    "Cárdenas",
    "Ortiz",
];

/// Each of these has broken some import of a dump.
const AWKWARD: [&str; 30] = [
    "",
    " ",
    " con espacios al final  ",
    "\\N",
    "\\.",
    "NULL",
    "'",
    "''",
    "\\'",
    "\"entre comillas\"",
    "termina en diagonal \\",
    "C:\\Sicar\\nuevo\\tabla.txt",
    "tab\tulador",
    "dos\nrenglones",
    "de\r\nWindows",
    "solo\rretorno",
    "suprimir\u{1a}control-Z\u{8}retroceso\u{7f}",
    "),(1,'x'),(",
    "'); DROP TABLE `articulo`; -- ",
    "/* comentario */ # y -- otro",
    "INSERT INTO `venta` VALUES (1,2);\n-- Dump completed on 2020-01-01",
    "50% _de_ descuento \\% \\_",
    "🛠️ herramienta 👩🏽‍🔧 emoji 😀",
    "á e\u{301} ñ ü ¿qué? ¡sí! «€» – — …",
    "\u{feff}con marca de orden\u{200b}\u{a0}",
    "日本語 العربية עברית Ελληνικά",
    "\\\\ \\0 \\Z \\b \\n \\r \\t \\x",
    "{\"clave\": \"valor\", \"lista\": [1, 2.50, null]}",
    "<b>negritas</b> &amp; más",
    "$1 ${HOME} %s {} `comando`",
];

fn one<'a>(rng: &mut SmallRng, words: &[&'a str]) -> &'a str {
    words[rng.random_range(0..words.len())]
}

/// A product's name.
pub(crate) fn product(rng: &mut SmallRng) -> String {
    let (noun, first, second) = (one(rng, &NOUNS), one(rng, &ADJECTIVES), one(rng, &ADJECTIVES));
    if rng.random_ratio(1, 40) {
        format!("{noun} {first} {}", one(rng, &AWKWARD))
    } else {
        format!("{noun} {first} {second}")
    }
}

/// A person's name.
pub(crate) fn person(rng: &mut SmallRng) -> String {
    format!("{} {} {}", one(rng, &GIVEN), one(rng, &FAMILY), one(rng, &FAMILY))
}

/// A sentence of so many words, now and then with something awkward in it.
pub(crate) fn sentence(rng: &mut SmallRng, words: usize) -> String {
    let mut text = String::new();
    for _ in 0..words {
        text.push_str(match rng.random_range(0..100) {
            0..=49 => one(rng, &NOUNS),
            50..=97 => one(rng, &ADJECTIVES),
            _ => one(rng, &AWKWARD),
        });
        text.push(' ');
    }
    text
}

/// Something awkward.
pub(crate) fn awkward(rng: &mut SmallRng) -> &'static str {
    one(rng, &AWKWARD)
}

/// Every awkward text once.
pub(crate) fn all_awkward() -> impl Iterator<Item = &'static str> {
    AWKWARD.into_iter()
}
