package sns

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/cmkeeper/cmkeeper/internal/localaws/pattern"
	"github.com/cmkeeper/cmkeeper/internal/localaws/sqs"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

const (
	// maxSize is SNS's limit of a message, all its renderings and attributes
	// included, and of a batch's messages together.
	maxSize = 256 << 10
	// maxSubject is SNS's limit of a subject, in characters.
	maxSubject = 100
)

// notification is what Publish was given.
type notification struct {
	id, subject, message string
	structured           map[string]string // the message by protocol, nil for a plain one
	attributes           map[string]sqs.MessageAttribute
	size                 int
}

type publishOutput struct {
	MessageID string `xml:"MessageId"`
}

func (s *Service) publish(ctx context.Context, form url.Values) (any, error) {
	arn := form.Get("TopicArn")
	if arn == "" {
		arn = form.Get("TargetArn")
	}
	to, err := s.audience(ctx, arn)
	if err != nil {
		return nil, err
	}
	n, invalidErr := parseNotification(form)
	if invalidErr != nil {
		return nil, invalidErr
	}
	s.deliver(to, n)
	return publishOutput{n.id}, nil
}

// audience is who a topic's notifications go to, copied so that delivery needs no lock.
type audience struct {
	topicARN, signatureVersion string
	subscriptions              []subscription
}

// audience returns the topic's audience if the caller may publish.
func (s *Service) audience(ctx context.Context, arn string) (audience, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	t, err := s.topic(ctx, arn, "Publish")
	if err != nil {
		return audience{}, err
	}
	if err := s.checkKey(t); err != nil {
		return audience{}, err
	}
	to := audience{topicARN: t.arn, signatureVersion: t.attributes["SignatureVersion"]}
	if to.signatureVersion == "" {
		to.signatureVersion = "1"
	}
	for _, sub := range s.of(t) {
		to.subscriptions = append(to.subscriptions, *sub)
	}
	return to, nil
}

// checkKey refuses a publication while the topic's key does not work. Who may use
// the key is not checked.
func (s *Service) checkKey(t *topic) error {
	keyID := t.attributes["KmsMasterKeyId"]
	if keyID == "" || s.config.Keys == nil {
		return nil
	}
	err := s.config.Keys.Usable(keyID)
	if err == nil {
		return nil
	}
	e := wire.AsError(err)
	code := map[string]string{"DisabledException": "KMSDisabled", "KMSInvalidStateException": "KMSInvalidState", "NotFoundException": "KMSNotFound"}[e.Code]
	if code == "" {
		code = "KMSAccessDenied"
	}
	return wire.Errorf(400, code, "%s (Service: AWSKMS; Error Code: %s)", e.Message, e.Code)
}

// parseNotification checks a message as Publish does.
func parseNotification(form url.Values) (notification, *wire.Error) {
	n := notification{id: wire.NewUUID(), subject: form.Get("Subject"), message: form.Get("Message"), attributes: map[string]sqs.MessageAttribute{}}
	if n.message == "" {
		return n, invalid("Empty message")
	}
	if form.Has("Subject") && !validSubject(n.subject) {
		return n, invalid("Subject")
	}
	if !utf8.ValidString(n.message) {
		return n, invalid("Message Reason: not valid UTF-8")
	}
	n.size = len(n.message) + len(n.subject)
	for _, e := range wire.QueryList(form, "MessageAttributes.entry") {
		name := e.Get("Name")
		binary, err := base64.StdEncoding.DecodeString(e.Get("Value.BinaryValue"))
		a := sqs.MessageAttribute{DataType: e.Get("Value.DataType"), StringValue: e.Get("Value.StringValue"), BinaryValue: binary}
		if name == "" || a.DataType == "" || err != nil || a.StringValue == "" && len(binary) == 0 {
			return n, wire.Errorf(400, "ParameterValueInvalid", "The message attribute '%s' must contain a non-empty name, type and value.", name)
		}
		n.attributes[name] = a
		n.size += len(name) + len(a.DataType) + len(a.StringValue) + len(a.BinaryValue)
	}
	if n.size > maxSize {
		return n, invalid("Message too long")
	}
	switch structure := form.Get("MessageStructure"); structure {
	case "":
	case "json":
		if !n.parseStructure() {
			return n, invalid("Message Structure - JSON message body failed to parse or has no string under default")
		}
	default:
		return n, invalid("MessageStructure")
	}
	return n, nil
}

// parseStructure takes apart a message that has a rendering for each protocol.
// Members that are no strings are ignored, as SNS documents.
func (n *notification) parseStructure() bool {
	var members map[string]json.RawMessage
	if json.Unmarshal([]byte(n.message), &members) != nil {
		return false
	}
	n.structured = map[string]string{}
	for protocol, raw := range members {
		var text string
		if json.Unmarshal(raw, &text) == nil {
			n.structured[protocol] = text
		}
	}
	_, ok := n.structured["default"]
	return ok
}

// forQueues returns the rendering that SQS subscriptions get.
func (n *notification) forQueues() string {
	if n.structured == nil {
		return n.message
	}
	if text, ok := n.structured["sqs"]; ok {
		return text
	}
	return n.structured["default"]
}

// validSubject reports whether a subject is printable ASCII, begins with a
// letter, a number or punctuation, and is no longer than SNS allows.
func validSubject(subject string) bool {
	if subject == "" || len(subject) > maxSubject || subject[0] == ' ' {
		return false
	}
	return !strings.ContainsFunc(subject, func(r rune) bool { return r > unicode.MaxASCII || !unicode.IsPrint(r) })
}

// deliver sends a notification to the subscriptions whose filters let it pass.
// What a queue refuses goes to the subscription's dead-letter queue, and
// without one is lost, as on AWS.
func (s *Service) deliver(to audience, n notification) {
	for _, sub := range to.subscriptions {
		if !n.passes(sub.settings) {
			continue
		}
		d := sqs.Delivery{QueueARN: sub.queueARN, Service: principal, SourceARN: to.topicARN}
		if sub.settings.raw {
			d.Body, d.Attributes = n.forQueues(), n.attributes
		} else {
			d.Body = s.envelope(to, sub.arn, n)
		}
		if s.config.Queues.Deliver(d) != nil && sub.settings.deadLetterARN != "" {
			d.QueueARN = sub.settings.deadLetterARN
			_ = s.config.Queues.Deliver(d) // refused there as well: lost
		}
	}
}

// passes reports whether a subscription's filter lets the notification pass.
func (n *notification) passes(set subscriptionSettings) bool {
	if set.filter == nil {
		return true
	}
	if set.filterBody {
		body, err := pattern.Decode([]byte(n.forQueues()))
		return err == nil && set.filter.Match(body)
	}
	attributes := map[string]any{}
	for name, a := range n.attributes {
		switch a.DataType {
		case "String":
			attributes[name] = a.StringValue
		case "Number":
			attributes[name] = json.Number(a.StringValue)
		case "String.Array":
			if list, err := pattern.Decode([]byte(a.StringValue)); err == nil {
				attributes[name] = list
			}
		} // no filter matches a binary attribute
	}
	return set.filter.Match(attributes)
}

// envelope is the notification as a queue receives it without raw delivery.
// Its signature has the real shape but nothing to check it with.
func (s *Service) envelope(to audience, subscriptionARN string, n notification) string {
	type attribute struct{ Type, Value string }
	endpoint := "https://sns." + s.config.Region + ".amazonaws.com/"
	var signature [256]byte
	_, _ = rand.Read(signature[:]) // crypto/rand.Read never fails
	e := struct {
		Type              string
		MessageID         string `json:"MessageId"`
		TopicARN          string `json:"TopicArn"`
		Subject           string `json:",omitempty"`
		Message           string
		Timestamp         string
		SignatureVersion  string
		Signature         string
		SigningCertURL    string
		UnsubscribeURL    string
		MessageAttributes map[string]attribute `json:",omitempty"`
	}{
		Type: "Notification", MessageID: n.id, TopicARN: to.topicARN, Subject: n.subject, Message: n.forQueues(),
		Timestamp:        time.Now().UTC().Format("2006-01-02T15:04:05.000Z"),
		SignatureVersion: to.signatureVersion,
		Signature:        base64.StdEncoding.EncodeToString(signature[:]),
		SigningCertURL:   endpoint + "SimpleNotificationService-localaws.pem",
		UnsubscribeURL:   endpoint + "?Action=Unsubscribe&SubscriptionArn=" + subscriptionARN,
	}
	for name, a := range n.attributes {
		if e.MessageAttributes == nil {
			e.MessageAttributes = map[string]attribute{}
		}
		value := a.StringValue
		if len(a.BinaryValue) > 0 {
			value = base64.StdEncoding.EncodeToString(a.BinaryValue)
		}
		e.MessageAttributes[name] = attribute{a.DataType, value}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	_ = enc.Encode(e) // strings always encode
	return strings.TrimSuffix(b.String(), "\n")
}

type batchSuccess struct {
	ID        string `xml:"Id"`
	MessageID string `xml:"MessageId"`
}

type batchFailure struct {
	ID          string `xml:"Id"`
	Code        string
	Message     string
	SenderFault bool
}

type publishBatchOutput struct {
	Successful []batchSuccess `xml:"Successful>member"`
	Failed     []batchFailure `xml:"Failed>member"`
}

func (s *Service) publishBatch(ctx context.Context, form url.Values) (any, error) {
	to, err := s.audience(ctx, form.Get("TopicArn"))
	if err != nil {
		return nil, err
	}
	list := wire.QueryList(form, "PublishBatchRequestEntries.member")
	if len(list) == 0 {
		return nil, wire.Errorf(400, "EmptyBatchRequest", "The batch request doesn't contain any entries.")
	}
	if len(list) > 10 {
		return nil, wire.Errorf(400, "TooManyEntriesInBatchRequest", "The batch request contains more entries than permissible (10).")
	}
	var out publishBatchOutput
	var good []notification
	var ids []string
	size := 0
	for _, e := range list {
		id := e.Get("Id")
		if id == "" || len(id) > 80 {
			return nil, wire.Errorf(400, "InvalidBatchEntryId", "The Id of a batch entry in a batch request doesn't abide by the specification.")
		}
		if slices.Contains(ids, id) {
			return nil, wire.Errorf(400, "BatchEntryIdsNotDistinct", "Two or more batch entries in the request have the same Id.")
		}
		ids = append(ids, id)
		n, invalidErr := parseNotification(e)
		size += n.size
		if invalidErr != nil {
			out.Failed = append(out.Failed, batchFailure{id, invalidErr.Code, invalidErr.Message, true})
			continue
		}
		good = append(good, n)
		out.Successful = append(out.Successful, batchSuccess{id, n.id})
	}
	if size > maxSize {
		return nil, wire.Errorf(400, "BatchRequestTooLong", "The length of all the batch messages put together is more than the limit.")
	}
	for _, n := range good {
		s.deliver(to, n)
	}
	return out, nil
}
