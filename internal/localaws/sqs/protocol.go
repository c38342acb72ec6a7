package sqs

import (
	"context"
	"encoding/base64"
	"encoding/xml"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strconv"

	"github.com/cmkeeper/cmkeeper/internal/localaws/trail"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

const queryNamespace = "http://queue.amazonaws.com/doc/2012-11-05/"

// operations returns the tables of operations, one for each protocol.
func (s *Service) operations() (map[string]wire.JSONOperation, map[string]wire.QueryOperation) {
	asJSON, asQuery := map[string]wire.JSONOperation{}, map[string]wire.QueryOperation{}
	for name, op := range map[string]operation{
		"CancelMessageMoveTask":        serve(s.cancelMessageMoveTask),
		"ChangeMessageVisibility":      serveNoOutput(s.changeMessageVisibility),
		"ChangeMessageVisibilityBatch": serve(s.changeMessageVisibilityBatch),
		"CreateQueue":                  serve(trail.Recorded(s.config.Trail, "sqs", "CreateQueue", s.createQueue)),
		"DeleteMessage":                serveNoOutput(s.deleteMessage),
		"DeleteMessageBatch":           serve(s.deleteMessageBatch),
		"DeleteQueue":                  serveChange(s, "DeleteQueue", s.deleteQueue),
		"GetQueueAttributes":           serve(s.getQueueAttributes),
		"GetQueueUrl":                  serve(s.getQueueURL),
		"ListDeadLetterSourceQueues":   serve(s.listDeadLetterSourceQueues),
		"ListMessageMoveTasks":         serve(s.listMessageMoveTasks),
		"ListQueueTags":                serve(s.listQueueTags),
		"ListQueues":                   serve(s.listQueues),
		"PurgeQueue":                   serveChange(s, "PurgeQueue", s.purgeQueue),
		"ReceiveMessage":               serve(s.receiveMessage),
		"SendMessage":                  serve(s.sendMessage),
		"SendMessageBatch":             serve(s.sendMessageBatch),
		"SetQueueAttributes":           serveChange(s, "SetQueueAttributes", s.setQueueAttributes),
		"StartMessageMoveTask":         serve(s.startMessageMoveTask),
		"TagQueue":                     serveChange(s, "TagQueue", s.tagQueue),
		"UntagQueue":                   serveChange(s, "UntagQueue", s.untagQueue),
	} {
		asJSON[name], asQuery[name] = op.json, op.query
	}
	return asJSON, asQuery
}

// operation is one operation behind both protocols.
type operation struct {
	json  wire.JSONOperation
	query wire.QueryOperation
}

func serve[In, Out any](f func(ctx context.Context, in In) (Out, error)) operation {
	return operation{
		json: wire.JSON(f),
		query: func(ctx context.Context, form url.Values) (any, error) {
			var in In
			if err := decodeForm(form, reflect.ValueOf(&in).Elem()); err != nil {
				return nil, err
			}
			return f(ctx, in)
		},
	}
}

func serveNoOutput[In any](f func(ctx context.Context, in In) error) operation {
	return serve(func(ctx context.Context, in In) (any, error) { return nil, f(ctx, in) })
}

// serveChange is serveNoOutput for an operation whose calls are recorded.
func serveChange[In any](s *Service, name string, f func(ctx context.Context, in In) error) operation {
	return serve(trail.Recorded(s.config.Trail, "sqs", name, func(ctx context.Context, in In) (any, error) { return nil, f(ctx, in) }))
}

// decodeForm fills a request's struct from a form. A field's name in the form
// is its query tag, else its json tag, else its own name; lists and maps are
// flattened (NAME.1, NAME.2, …).
func decodeForm(form url.Values, into reflect.Value) error {
	for i := range into.NumField() {
		field, value := into.Type().Field(i), into.Field(i)
		if field.Anonymous {
			if err := decodeForm(form, value); err != nil {
				return err
			}
			continue
		}
		name := field.Name
		if tag := field.Tag.Get("query"); tag != "" {
			name = tag
		} else if tag := field.Tag.Get("json"); tag != "" {
			name = tag
		}
		if err := decodeField(form, name, value); err != nil {
			return err
		}
	}
	return nil
}

func decodeField(form url.Values, name string, value reflect.Value) error {
	switch p := value.Addr().Interface().(type) {
	case *string:
		*p = form.Get(name)
	case **int:
		if !form.Has(name) {
			return nil
		}
		n, err := strconv.Atoi(form.Get(name))
		if err != nil {
			return invalidValue(form.Get(name), name, "Must be an integer.")
		}
		*p = &n
	case *[]string:
		for _, member := range wire.QueryList(form, name) {
			*p = append(*p, member.Get(""))
		}
	case *map[string]string:
		for _, member := range wire.QueryList(form, name) {
			if *p == nil {
				*p = map[string]string{}
			}
			(*p)[member.Get("Name")+member.Get("Key")] = member.Get("Value")
		}
	case *map[string]MessageAttribute:
		for _, member := range wire.QueryList(form, name) {
			if *p == nil {
				*p = map[string]MessageAttribute{}
			}
			binary, err := base64.StdEncoding.DecodeString(member.Get("Value.BinaryValue"))
			if err != nil {
				return invalidValue(member.Get("Name"), name, "The binary value is not base64.")
			}
			(*p)[member.Get("Name")] = MessageAttribute{
				DataType: member.Get("Value.DataType"), StringValue: member.Get("Value.StringValue"), BinaryValue: binary,
			}
		}
	default: // a batch's entries
		for _, member := range wire.QueryList(form, name) {
			value.Grow(1)
			value.SetLen(value.Len() + 1)
			if err := decodeForm(member, value.Index(value.Len()-1)); err != nil {
				return err
			}
		}
	}
	return nil
}

// The maps below are flattened lists of pairs in the query protocol.
type (
	attributeMap        map[string]string
	tagMap              map[string]string
	messageAttributeMap map[string]MessageAttribute
)

// MarshalXML writes the attributes as <Attribute> elements.
func (m attributeMap) MarshalXML(e *xml.Encoder, start xml.StartElement) error {
	type pair struct{ Name, Value string }
	return encodePairs(e, start, m, func(name string) any { return pair{name, m[name]} })
}

// MarshalXML writes the tags as <Tag> elements.
func (m tagMap) MarshalXML(e *xml.Encoder, start xml.StartElement) error {
	type pair struct{ Key, Value string }
	return encodePairs(e, start, m, func(name string) any { return pair{name, m[name]} })
}

// MarshalXML writes the attributes as <MessageAttribute> elements.
func (m messageAttributeMap) MarshalXML(e *xml.Encoder, start xml.StartElement) error {
	type value struct {
		DataType    string
		StringValue string `xml:",omitempty"`
		BinaryValue string `xml:",omitempty"`
	}
	type pair struct {
		Name  string
		Value value
	}
	return encodePairs(e, start, m, func(name string) any {
		a := m[name]
		return pair{name, value{a.DataType, a.StringValue, base64.StdEncoding.EncodeToString(a.BinaryValue)}}
	})
}

func encodePairs[V any](e *xml.Encoder, start xml.StartElement, m map[string]V, pair func(name string) any) error {
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if err := e.EncodeElement(pair(name), start); err != nil {
			return err
		}
	}
	return nil
}
