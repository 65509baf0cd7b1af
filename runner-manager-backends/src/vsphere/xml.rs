//! XML as SOAP uses it: a small tree, read within strict limits, and written with everything escaped.
//!
//! An answer may be hostile or broken: what is too deep, has too many elements, or brings a document type
//! (where entities are defined, and XML bombs with them) is refused. Namespaces are looked at no further than
//! to drop prefixes: the few documents that we read use each local name for one thing.

use std::borrow::Cow;
use std::fmt;

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};

/// Elements within elements: vCenter's own answers have about 20.
const MOST_DEPTH: usize = 64;

/// Elements in one answer: a page of a hundred machines has about 40,000.
const MOST_ELEMENTS: usize = 200_000;

/// The types of values that stand in the namespace of XML Schema rather than in vCenter's.
const SCHEMA_TYPES: [&str; 7] = ["string", "boolean", "int", "long", "short", "byte", "dateTime"];

/// One element. It may hold a JIT config or a password, so its `Debug` tells no more than its name.
#[derive(Clone, PartialEq, Eq, Default)]
pub(super) struct Element {
    /// Its name without a prefix.
    pub(super) name: String,
    /// Its `xsi:type` without a prefix: which of the types that can stand here this is.
    pub(super) kind: Option<String>,
    /// Its attribute `type`: of which type the object is that a reference leads to.
    refers_to: Option<String>,
    text: String,
    children: Vec<Self>,
}

impl fmt::Debug for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} with {} children>", self.name, self.children.len())
    }
}

impl Element {
    pub(super) fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// An element with nothing but a text in it.
    pub(super) fn value(name: impl Into<String>, text: impl fmt::Display) -> Self {
        Self { text: text.to_string(), ..Self::new(name) }
    }

    /// The same under another name.
    pub(super) fn named(self, name: impl Into<String>) -> Self {
        Self { name: name.into(), ..self }
    }

    /// The same with an `xsi:type`.
    pub(super) fn of_kind(mut self, kind: impl Into<String>) -> Self {
        self.kind = Some(kind.into());
        self
    }

    /// The same with one more child, at the end: the order counts, it is that of the type's definition.
    pub(super) fn with(mut self, child: Self) -> Self {
        self.children.push(child);
        self
    }

    /// The same with more children, at the end.
    pub(super) fn with_all(mut self, children: impl IntoIterator<Item = Self>) -> Self {
        self.children.extend(children);
        self
    }

    /// The same without the children of a name.
    pub(super) fn without(mut self, name: &str) -> Self {
        self.children.retain(|child| child.name != name);
        self
    }

    /// The same with another child in the place of the one of its name; where there is none, unchanged.
    pub(super) fn replacing(mut self, child: Self) -> Self {
        if let Some(place) = self.children.iter_mut().find(|old| old.name == child.name) {
            *place = child;
        }
        self
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    pub(super) fn children<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    pub(super) fn into_children(self) -> Vec<Self> {
        self.children
    }

    /// The text of a child.
    pub(super) fn text_of(&self, name: &str) -> Option<&str> {
        self.child(name).map(Self::text)
    }

    /// Reads a document.
    ///
    /// # Errors
    /// Why it cannot be read, without quoting it: it may hold secrets.
    pub(super) fn read(document: &str) -> Result<Self, String> {
        let mut reader = Reader::from_str(document);
        let mut builder = Builder::default();
        loop {
            let event = reader.read_event();
            let event =
                event.map_err(|_| format!("it is no well-formed XML at byte {}", reader.error_position()))?;
            match event {
                Event::Start(start) => builder.open(&start)?,
                Event::Empty(start) => {
                    builder.open(&start)?;
                    builder.close()?;
                }
                Event::End(_) => builder.close()?,
                Event::Text(text) => builder.say(&text.xml10_content()),
                Event::CData(text) => builder.say(&text.xml10_content()),
                Event::GeneralRef(reference) => builder.refer(&reference)?,
                Event::DocType(_) => return Err("it brings a document type, which no answer has".to_owned()),
                Event::Decl(_) | Event::PI(_) | Event::Comment(_) => {}
                Event::Eof => return builder.root.ok_or_else(|| "it breaks off".to_owned()),
            }
        }
    }

    /// Appends the element to a document that knows the prefixes `xsi` and `xsd`.
    pub(super) fn write(&self, document: &mut String) {
        document.push('<');
        document.push_str(&self.name);
        if let Some(kind) = &self.kind {
            let prefix = if SCHEMA_TYPES.contains(&kind.as_str()) { "xsd:" } else { "" };
            document.extend([" xsi:type=\"", prefix, &escaped(kind), "\""]);
        }
        if let Some(of) = &self.refers_to {
            document.extend([" type=\"", &escaped(of), "\""]);
        }
        document.push('>');
        document.push_str(&escaped(&self.text));
        for child in &self.children {
            child.write(document);
        }
        document.extend(["</", &self.name, ">"]);
    }
}

/// The text with all that means something in XML escaped, and without the control characters that XML has no
/// way to write.
fn escaped(text: &str) -> Cow<'_, str> {
    let unwritable = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t');
    if text.contains(unwritable) {
        let writable: String = text.chars().filter(|c| !unwritable(*c)).collect();
        return Cow::Owned(quick_xml::escape::escape(&writable).into_owned());
    }
    quick_xml::escape::escape(text)
}

/// The elements that are open, outermost first, and the root once it is closed.
#[derive(Default)]
struct Builder {
    open: Vec<Element>,
    root: Option<Element>,
    count: usize,
}

impl Builder {
    fn open(&mut self, start: &BytesStart<'_>) -> Result<(), String> {
        self.count += 1;
        if self.count > MOST_ELEMENTS {
            return Err(format!("it has more than {MOST_ELEMENTS} elements"));
        }
        if self.open.len() >= MOST_DEPTH {
            return Err(format!("its elements are more than {MOST_DEPTH} deep"));
        }
        if self.root.is_some() {
            return Err("it has a second root".to_owned());
        }
        let mut element = Element::new(start.local_name().as_ref());
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|_| "it has an attribute that is none".to_owned())?;
            if attribute.key.local_name().as_ref() != "type" {
                continue;
            }
            let value = attribute.normalized_value(XmlVersion::Implicit1_0);
            let value = value.map_err(|_| "it has a type that cannot be read".to_owned())?;
            match attribute.key.prefix() {
                Some(_) => element.kind = Some(without_prefix(&value)),
                None => element.refers_to = Some(value.into_owned()),
            }
        }
        self.open.push(element);
        Ok(())
    }

    fn close(&mut self) -> Result<(), String> {
        let mut element = self.open.pop().ok_or_else(|| "it closes what is not open".to_owned())?;
        if !element.children.is_empty() {
            // What stands between elements is the sender's indentation.
            element.text.clear();
        }
        match self.open.last_mut() {
            Some(parent) => parent.children.push(element),
            None => self.root = Some(element),
        }
        Ok(())
    }

    fn say(&mut self, text: &str) {
        if let Some(element) = self.open.last_mut() {
            element.text.push_str(text);
        }
    }

    /// A character by its number, or one of the five entities that XML itself defines. There are no others.
    fn refer(&mut self, reference: &quick_xml::events::BytesRef<'_>) -> Result<(), String> {
        let character =
            reference.resolve_char_ref().map_err(|_| "it has a character that is none".to_owned())?;
        if let Some(character) = character {
            self.say(character.encode_utf8(&mut [0; 4]));
            return Ok(());
        }
        let text = quick_xml::escape::resolve_predefined_entity(reference);
        self.say(text.ok_or_else(|| "it uses an entity of its own".to_owned())?);
        Ok(())
    }
}

fn without_prefix(name: &str) -> String {
    name.rsplit(':').next().unwrap_or_default().to_owned()
}

/// A reference to an object of vCenter ("moref"): its type and its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reference {
    pub(super) kind: String,
    pub(super) value: String,
}

impl Reference {
    pub(super) fn new(kind: impl Into<String>, value: impl Into<String>) -> Self {
        Self { kind: kind.into(), value: value.into() }
    }

    pub(super) fn read(element: &Element) -> Option<Self> {
        Some(Self::new(element.refers_to.as_deref()?, element.text()))
    }

    /// The element of a name that leads to the object.
    pub(super) fn element(&self, name: impl Into<String>) -> Element {
        Element { refers_to: Some(self.kind.clone()), ..Element::value(name, &self.value) }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::{Element, MOST_DEPTH, MOST_ELEMENTS, Reference};

    #[test]
    fn what_is_written_reads_back() {
        let nasty = "<&>\"' ]]> ä \u{1F980} \n\t &amp;";
        let element = Element::new("spec")
            .of_kind("Spec")
            .with(Element::value("text", nasty).of_kind("string"))
            .with(Reference::new("VirtualMachine", "vm-<1>").element("obj"))
            .with(Element::new("empty"));
        let mut written = String::new();
        element.write(&mut written);
        assert!(
            written.contains("xsi:type=\"xsd:string\"") && written.contains("xsi:type=\"Spec\""),
            "{written}"
        );
        let document = format!("<a xmlns:xsi=\"i\" xmlns:xsd=\"d\">{written}</a>");
        let read = Element::read(&document).unwrap();
        assert!(read.child("spec") == Some(&element), "{written}");
        assert_eq!(
            Reference::read(read.child("spec").unwrap().child("obj").unwrap()).unwrap().value,
            "vm-<1>"
        );
    }

    #[test]
    fn control_characters_are_left_out() {
        let mut written = String::new();
        Element::value("a", "x\u{0}\u{1b}<y").write(&mut written);
        assert_eq!(written, "<a>x&lt;y</a>");
    }

    #[test]
    fn bombs_and_broken_documents_are_refused_without_being_quoted() {
        let laughs =
            r#"<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "secret"><!ENTITY b "&a;&a;&a;">]><l>&b;</l>"#;
        let external = r#"<!DOCTYPE l SYSTEM "file:///etc/passwd"><l/>"#;
        let deep = "<a>".repeat(MOST_DEPTH + 1) + &"</a>".repeat(MOST_DEPTH + 1);
        let mut wide = "<r>".to_owned();
        (0..=MOST_ELEMENTS).for_each(|_| wide.push_str("<a/>"));
        wide.write_str("</r>").unwrap();
        for (document, why) in [
            (laughs, "document type"),
            (external, "document type"),
            ("<l>&secret;</l>", "entity"),
            (&deep, "deep"),
            (&wide, "elements"),
            ("<a><b>secret</b>", "breaks off"),
            ("<a>secret</b>", "well-formed"),
            ("<a/><b/>", "second root"),
            ("secret", "breaks off"),
            ("", "breaks off"),
        ] {
            let refusal = Element::read(document).unwrap_err();
            assert!(refusal.contains(why) && !refusal.contains("secret"), "{refusal}");
        }
    }

    #[test]
    fn an_element_does_not_print_what_it_holds() {
        assert_eq!(format!("{:?}", Element::value("password", "secret")), "<password with 0 children>");
    }
}
