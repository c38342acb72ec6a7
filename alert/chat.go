package alert

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/cmkeeper/cmkeeper/internal/command"
)

// What a chat message holds. The first two are the service's limits, as far as
// they are known; the others nobody documents, so they are small.
const (
	chatTitle       = 250
	chatDescription = 8000
	chatSteps       = 12
	chatStep        = 1000
	chatRows        = 20
	chatResources   = 50
)

// chatMessage is a custom notification of Amazon Q Developer in chat applications.
type chatMessage struct {
	Version  string       `json:"version"`
	Source   string       `json:"source"`
	ID       string       `json:"id"`
	Content  chatContent  `json:"content"`
	Metadata chatMetadata `json:"metadata"`
}

type chatContent struct {
	TextType    string   `json:"textType"`
	Title       string   `json:"title"`
	Description string   `json:"description"`
	NextSteps   []string `json:"nextSteps,omitempty"`
	Keywords    []string `json:"keywords,omitempty"`
}

type chatMetadata struct {
	// ThreadID puts what belongs together into one thread.
	ThreadID         string      `json:"threadId"`
	Summary          string      `json:"summary"`
	EventType        string      `json:"eventType"`
	RelatedResources []string    `json:"relatedResources,omitempty"`
	Context          chatContext `json:"additionalContext"`
}

type chatContext struct {
	Schema   string `json:"schema"`
	Severity string `json:"severity"`
	Account  string `json:"account,omitempty"`
	Region   string `json:"region,omitempty"`
}

// Chat returns the alert as a custom notification of Amazon Q Developer in chat
// applications, for Slack and Teams: JSON with the text in the client's own Markdown,
// in which nothing that came from outside is formatting, a link or a mention.
func (a Alert) Chat() ([]byte, error) {
	m := chatMessage{
		Version: "1.0", Source: "custom", ID: cutRunes(Escape(a.ID), 200),
		Content: chatContent{
			TextType: "client-markdown", Title: cutRunes(Escape(label(a.Severity))+plainChat(a.headline()), chatTitle),
			Description: a.chatDescription(), NextSteps: a.chatSteps(),
		},
		Metadata: chatMetadata{
			ThreadID: a.thread(), Summary: a.Subject(), EventType: cutRunes(Escape(string(a.Kind)), 100), RelatedResources: a.resources(),
			Context: chatContext{Schema: Schema, Severity: cutRunes(Escape(string(a.Severity)), 100), Account: cutRunes(Escape(a.Account), 100), Region: cutRunes(Escape(a.Region), 100)},
		},
	}
	for _, word := range []string{string(a.Severity), string(a.Kind), a.EventName} {
		if word != "" {
			m.Content.Keywords = append(m.Content.Keywords, cutRunes(plainChat(word), 100))
		}
	}
	return encode(m)
}

// thread is what the alert belongs to: its incident, the thread that it names, its key, or
// nothing but itself.
func (a Alert) thread() string {
	thread := a.ID
	switch {
	case a.Incident != "":
		thread = a.Incident
	case a.Thread != "":
		thread = a.Thread
	case a.Digest != nil:
		thread = a.Digest.Group
	case a.Key != nil:
		thread = a.Key.ARN
	}
	return cutRunes(Escape(thread), 200)
}

// resources are the keys that the alert is about.
func (a Alert) resources() []string {
	var arns []string
	add := func(arn string) {
		if arn != "" && len(arns) < chatResources && !slices.Contains(arns, arn) {
			arns = append(arns, cutRunes(Escape(arn), 200))
		}
	}
	if a.Key != nil {
		add(a.Key.ARN)
	}
	if a.Digest != nil {
		for _, c := range a.Digest.Calls {
			add(c.Key)
		}
	}
	return arns
}

// chatDescription is what happened, as lines of Markdown, as many as fit.
func (a Alert) chatDescription() string {
	var lines []string
	line := func(name, value string) {
		if value != "" {
			lines = append(lines, "*"+name+"* "+value)
		}
	}
	text := func(s string) string { return plainChat(shorten(s, 1500)) }
	code := func(s string) string {
		if s == "" {
			return ""
		}
		return codeChat(shorten(s, 300))
	}
	line("What", text(a.Summary))
	if d := a.Digest; d != nil {
		line("By", code(d.Group))
		for i, c := range d.Calls {
			if i == chatRows {
				lines = append(lines, fmt.Sprintf("… and %d more, in the mail and in the JSON", d.all()-i))
				break
			}
			if a.Kind == KindPosture {
				lines = append(lines, fmt.Sprintf("• %s %s: %s", text(strings.ToUpper(string(c.Severity))), code(c.stands()), text(c.Title)))
				continue
			}
			row := fmt.Sprintf("• %s %s %s", c.Time.UTC().Format("15:04:05"), text(strings.ToUpper(string(c.Severity))), code(c.EventName))
			if key := c.key(); key != "" {
				row += " on " + code(key)
			}
			if c.Sensitive {
				row += ", a sensitive key"
			}
			lines = append(lines, row+": "+text(c.Status.words()))
		}
	}
	if k := a.Key; k != nil {
		line("Key", strings.TrimSpace(code(strings.Join(k.Aliases, ", "))+" "+code(k.ARN)))
		line("Deletion", moment(k.DeletionDate))
	}
	if w := a.Actor; w != nil {
		line("Who", code(w.Name))
		line("From", code(w.SourceIP))
	}
	line("What cmkeeper did", text(a.did()))
	line("At risk", text(a.Risk))
	for i, f := range a.Findings {
		if i == chatRows {
			lines = append(lines, fmt.Sprintf("… and %d more findings, in the mail and in the JSON", len(a.Findings)-i))
			break
		}
		lines = append(lines, fmt.Sprintf("• %s %s %s", text(strings.ToUpper(string(f.Severity))), code(f.ID.String()), text(f.Message)))
	}
	var b strings.Builder
	used := 0
	for _, l := range lines {
		const last = "… more in the mail and in the JSON"
		n := utf8.RuneCountInString(l) + 1
		if used+n > chatDescription-len(last) {
			b.WriteString(last)
			break
		}
		used += n
		b.WriteString(l + "\n")
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// chatSteps are the next steps. A command is whole or not there at all.
func (a Alert) chatSteps() []string {
	var steps []string
	for i, n := range a.steps() {
		switch {
		case i == chatSteps:
			return append(steps, fmt.Sprintf("… and %d more, in the mail and in the JSON", len(a.Next)-i))
		case !command.Is(n):
			steps = append(steps, cutRunes(plainChat(n), chatStep))
		case utf8.RuneCountInString(n) > chatStep:
			steps = append(steps, "A command that is too long for a chat: see the mail or the JSON")
		default:
			steps = append(steps, codeChat(n))
		}
	}
	return steps
}

// plainChat escapes text for Slack's and Teams' Markdown alike. Slack knows three
// entities and no way to escape what formats, so that becomes a character that looks like it.
func plainChat(s string) string {
	s = chatText.Replace(Escape(s))
	var b strings.Builder
	var before rune
	for i, r := range s {
		after, _ := utf8.DecodeRuneInString(s[i+utf8.RuneLen(r):])
		if r == '_' && (!isWord(before) || !isWord(after)) { // inside a word it formats nothing
			r = '\uff3f'
		}
		b.WriteRune(r)
		before = r
	}
	return b.String()
}

func isWord(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }

// codeChat makes one line of code of text. Slack wants the three entities there, too.
func codeChat(s string) string { return "`" + chatCode.Replace(Escape(s)) + "`" }

var (
	chatText = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;",
		"*", "\u2217", "~", "\u223c", "`", "'", "[", "(", "]", ")", "#", "\uff03", "|", "\u2223", "@", "\uff20", "://", ":\u2215\u2215")
	chatCode = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "`", "'")
)

// cutRunes cuts text to so many characters.
func cutRunes(s string, limit int) string {
	if r := []rune(s); len(r) > limit {
		return string(r[:limit-1]) + "…"
	}
	return s
}
