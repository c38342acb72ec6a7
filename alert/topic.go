package alert

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sns/types"
)

// Format is what the messages of a topic look like.
type Format string

// The formats.
const (
	// FormatAuto: text for people (email, SMS), JSON for everything else.
	FormatAuto Format = "auto"
	// FormatText and FormatJSON: the same for all subscribers.
	FormatText Format = "text"
	FormatJSON Format = "json"
	// FormatChat: custom notifications of Amazon Q Developer in chat applications.
	FormatChat Format = "chat"
)

// Formats returns all formats.
func Formats() []Format { return []Format{FormatAuto, FormatText, FormatJSON, FormatChat} }

// UnmarshalText accepts the formats.
func (f *Format) UnmarshalText(text []byte) error {
	if !slices.Contains(Formats(), Format(text)) {
		return fmt.Errorf("format %q: allowed are auto, text, json and chat", text)
	}
	*f = Format(text)
	return nil
}

// Topic is a standard SNS topic.
type Topic struct {
	ARN string
	// Format of its messages; "" is FormatAuto.
	Format Format
}

// name is one segment of a key in the state bucket.
func (t Topic) name() string {
	sum := sha256.Sum256([]byte(t.ARN))
	return hex.EncodeToString(sum[:8])
}

// message renders the alert as the topic's subscribers want it.
func (t Topic) message(a Alert) (*sns.PublishInput, error) {
	in := &sns.PublishInput{TopicArn: &t.ARN, Subject: aws.String(a.Subject()), MessageAttributes: a.attributes()}
	var err error
	switch t.Format {
	case FormatText:
		in.Message = aws.String(a.Text())
	case FormatJSON:
		var machine []byte
		machine, err = a.JSON()
		in.Message = aws.String(string(machine))
	case FormatChat:
		var message []byte
		message, err = a.Chat()
		in.Message = aws.String(string(message))
	default:
		in.MessageStructure = aws.String("json")
		in.Message, err = byProtocol(a)
	}
	return in, err
}

// byProtocol is JSON for every protocol but those that people read.
func byProtocol(a Alert) (*string, error) {
	machine, err := a.JSON()
	if err != nil {
		return nil, err
	}
	var message bytes.Buffer
	e := json.NewEncoder(&message)
	e.SetEscapeHTML(false)
	err = e.Encode(struct {
		Default string `json:"default"`
		Email   string `json:"email"`
		SMS     string `json:"sms"`
	}{string(machine), a.Text(), a.Subject()})
	return aws.String(message.String()), err
}

// attributes are what subscriptions filter by. Those of a digest that has several
// severities, kinds or events are lists, which a filter matches by each of their
// values: whoever wants one of its calls gets it.
func (a Alert) attributes() map[string]types.MessageAttributeValue {
	severities, kinds, names := []string{string(a.Severity)}, []string{string(a.Kind)}, []string{a.EventName}
	if a.Digest != nil {
		for _, c := range a.Digest.Calls {
			severities, kinds, names = append(severities, string(c.Severity)), append(kinds, string(c.Kind)), append(names, c.EventName)
		}
	}
	attributes := map[string]types.MessageAttributeValue{}
	for name, values := range map[string][]string{
		"severity": severities, "kind": kinds, "event_name": names, "account": {a.Account}, "region": {a.Region},
	} {
		var seen []string
		for _, v := range values {
			if v = Escape(shorten(v, attributeLimit)); v != "" && !slices.Contains(seen, v) && len(seen) < attributeValues {
				seen = append(seen, v)
			}
		}
		switch len(seen) {
		case 0: // SNS refuses empty ones
		case 1:
			attributes[name] = types.MessageAttributeValue{DataType: aws.String("String"), StringValue: &seen[0]}
		default:
			list, _ := json.Marshal(seen) // strings
			attributes[name] = types.MessageAttributeValue{DataType: aws.String("String.Array"), StringValue: aws.String(string(list))}
		}
	}
	return attributes
}
