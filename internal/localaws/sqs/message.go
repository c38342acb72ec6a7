package sqs

import (
	"crypto/md5"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// maxRequestSize is SQS's limit of a message, and of a batch's messages together.
const maxRequestSize = 1 << 20

// MessageAttribute is one attribute of a message. DataType is String, Number or
// Binary, optionally with a custom label after a dot; Binary values stand in
// BinaryValue, all others in StringValue.
type MessageAttribute struct {
	DataType    string
	StringValue string `json:",omitempty"`
	BinaryValue []byte `json:",omitempty"`
}

// String returns a String attribute.
func String(value string) MessageAttribute {
	return MessageAttribute{DataType: "String", StringValue: value}
}

func (a MessageAttribute) isBinary() bool {
	return a.DataType == "Binary" || strings.HasPrefix(a.DataType, "Binary.")
}

func (a MessageAttribute) value() []byte {
	if a.isBinary() {
		return a.BinaryValue
	}
	return []byte(a.StringValue)
}

// message is one message of a queue. The queue's lock guards what changes: the
// fields from receives on.
type message struct {
	id, body, bodyMD5 string
	attributes        map[string]MessageAttribute
	traceHeader       string
	groupID           string
	senderID          string
	sent              time.Time

	receives         int // over all queues, as ApproximateReceiveCount counts
	firstReceived    time.Time
	received         time.Time // when the running visibility timeout's receive was
	deadLetterSource string

	place placement
	due   time.Time // when it leaves the delayed or the in-flight heap
	index int       // in that heap
}

// placement says where in its queue a message is.
type placement int

const (
	ready placement = iota
	delayed
	inFlight
	gone // deleted while it lay in the ready list, which forgets it when it gets there
)

// sizeOf returns what a message counts in SQS's limits.
func sizeOf(body string, attributes map[string]MessageAttribute) int {
	size := len(body)
	for name, a := range attributes {
		size += len(name) + len(a.DataType) + len(a.value())
	}
	return size
}

// checkMessage checks a message as SendMessage does.
func checkMessage(body string, attributes map[string]MessageAttribute, limit int) *wire.Error {
	if body == "" {
		return missing("MessageBody")
	}
	if !validText(body) {
		return errorf("InvalidMessageContents", "Invalid characters found. Valid unicode characters are #x9 | #xA | #xD | #x20 to #xD7FF | #xE000 to #xFFFD | #x10000 to #x10FFFF")
	}
	if len(attributes) > 10 {
		return errorf("InvalidParameterValue", "Number of message attributes [%d] exceeds the allowed maximum [10].", len(attributes))
	}
	for name, a := range attributes {
		if err := checkAttribute(name, a); err != nil {
			return err
		}
	}
	if sizeOf(body, attributes) > limit {
		return errorf("InvalidParameterValue", "One or more parameters are invalid. Reason: Message must be shorter than %d bytes.", limit)
	}
	return nil
}

func checkAttribute(name string, a MessageAttribute) *wire.Error {
	lower := strings.ToLower(name)
	if name == "" || len(name) > 256 || strings.HasPrefix(lower, "aws.") || strings.HasPrefix(lower, "amazon.") ||
		strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".") || strings.Contains(name, "..") ||
		strings.ContainsFunc(name, func(r rune) bool { return !isWordRune(r) && r != '.' }) {
		return errorf("InvalidParameterValue", "The message attribute name '%s' is invalid.", name)
	}
	kind, _, _ := strings.Cut(a.DataType, ".")
	switch kind {
	case "String", "Number", "Binary":
	default:
		return errorf("InvalidParameterValue", "The type of message (user) attribute '%s' is invalid. You must use only the following supported type prefixes: Binary, Number, String.", name)
	}
	if len(a.value()) == 0 {
		return errorf("InvalidParameterValue", "Message (user) attribute '%s' must contain a non-empty value of type '%s'.", name, a.DataType)
	}
	if kind == "Number" {
		if _, err := strconv.ParseFloat(a.StringValue, 64); err != nil {
			return errorf("InvalidParameterValue", "Can't cast the value of message (user) attribute '%s' to a number.", name)
		}
	}
	if !a.isBinary() && !validText(a.StringValue) {
		return errorf("InvalidMessageContents", "Invalid characters found in message attribute '%s'.", name)
	}
	return nil
}

func isWordRune(r rune) bool {
	return r == '-' || r == '_' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
}

// validText reports whether s holds only the characters that SQS takes.
func validText(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if r < 0x20 && r != '\t' && r != '\n' && r != '\r' || r == 0xFFFE || r == 0xFFFF {
			return false
		}
	}
	return true
}

func md5Hex(s string) string {
	sum := md5.Sum([]byte(s))
	return hex.EncodeToString(sum[:])
}

// attributesMD5 is the digest that SQS answers for message attributes, "" for
// none: over the attributes in the order of their names, each as its name, type,
// a byte for string or binary, and value, every part after its length.
func attributesMD5(attributes map[string]MessageAttribute) string {
	if len(attributes) == 0 {
		return ""
	}
	sum := md5.New()
	for _, name := range slices.Sorted(maps.Keys(attributes)) {
		a := attributes[name]
		writePart(sum, name)
		writePart(sum, a.DataType)
		transport := byte(1)
		if a.isBinary() {
			transport = 2
		}
		_, _ = sum.Write([]byte{transport}) // a hash never fails
		writePart(sum, string(a.value()))
	}
	return hex.EncodeToString(sum.Sum(nil))
}

func writePart(sum hash.Hash, part string) {
	var length [4]byte
	binary.BigEndian.PutUint32(length[:], uint32(len(part)))
	_, _ = sum.Write(length[:])
	_, _ = io.WriteString(sum, part)
}

// selected returns the attributes that ReceiveMessage's MessageAttributeNames ask for.
func selected(attributes map[string]MessageAttribute, names []string) map[string]MessageAttribute {
	var chosen map[string]MessageAttribute
	for name, a := range attributes {
		if slices.ContainsFunc(names, func(want string) bool {
			prefix, all := strings.CutSuffix(want, ".*")
			return want == "All" || want == name || all && strings.HasPrefix(name, prefix)
		}) {
			if chosen == nil {
				chosen = map[string]MessageAttribute{}
			}
			chosen[name] = a
		}
	}
	return chosen
}

// systemAttributes returns the attributes of a received message that the names ask for.
func (m *message) systemAttributes(names []string) map[string]string {
	if len(names) == 0 {
		return nil
	}
	all := slices.Contains(names, "All")
	chosen := map[string]string{}
	add := func(name, value string) {
		if value != "" && (all || slices.Contains(names, name)) {
			chosen[name] = value
		}
	}
	add("SenderId", m.senderID)
	add("SentTimestamp", strconv.FormatInt(m.sent.UnixMilli(), 10))
	add("ApproximateReceiveCount", strconv.Itoa(m.receives))
	add("ApproximateFirstReceiveTimestamp", strconv.FormatInt(m.firstReceived.UnixMilli(), 10))
	add("DeadLetterQueueSourceArn", m.deadLetterSource)
	add("AWSTraceHeader", m.traceHeader)
	add("MessageGroupId", m.groupID)
	return chosen
}
