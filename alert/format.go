package alert

import (
	"fmt"
	"slices"
	"strings"
)

// Format is what an alert is rendered as. Only this package makes one, together with
// what renders it. The zero value is FormatAuto.
type Format struct{ name string }

// renderer defines a format.
type renderer struct {
	format Format
	// structure is SNS's MessageStructure: "" where all subscribers get the same.
	structure string
	// about is what subscribers get, for the documentation.
	about  string
	render func(Alert) ([]byte, error)
}

// renderers are all formats, the default first.
var renderers []renderer

// declare adds a format. Its literal names no fields, so that it does not build
// without a renderer.
func declare(r renderer) Format {
	renderers = append(renderers, r)
	return r.format
}

// The formats.
var (
	// FormatAuto: text for people (email, SMS), JSON for everything else. It is for SNS.
	FormatAuto = declare(renderer{Format{"auto"}, "json", "the default: text for `email` and the subject for `sms`, JSON for everything else", Alert.byProtocol})
	// FormatText: plain text.
	FormatText = declare(renderer{Format{"text"}, "", "text, the same for all subscribers", func(a Alert) ([]byte, error) { return []byte(a.Text()), nil }})
	// FormatJSON: one line of JSON.
	FormatJSON = declare(renderer{Format{"json"}, "", "one line of JSON, the same for all subscribers", Alert.JSON})
	// FormatChat: custom notifications of Amazon Q Developer in chat applications.
	FormatChat = declare(renderer{Format{"chat"}, "", "a custom notification of Amazon Q Developer in chat applications, for Slack and Microsoft Teams: subscribe a chat client's configuration to the topic. All about one key, or one incident, has one thread id", Alert.Chat})
)

func (f Format) renderer() renderer {
	return renderers[max(0, slices.IndexFunc(renderers, func(r renderer) bool { return r.format == f }))]
}

// Equal is == for go-cmp, which does not look into the Format.
func (f Format) Equal(other Format) bool { return f == other }

// UnmarshalText accepts the names of the formats.
func (f *Format) UnmarshalText(text []byte) error {
	var names []string
	for _, r := range renderers {
		if r.format.name == string(text) {
			*f = r.format
			return nil
		}
		names = append(names, r.format.name)
	}
	return fmt.Errorf("format %q: must be one of %s", text, strings.Join(names, ", "))
}
