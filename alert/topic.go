package alert

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sns/types"
)

// Topic is a standard SNS topic.
type Topic struct {
	ARN string
	// Format of its messages.
	Format Format
}

// name is one segment of a key in the state bucket.
func (t Topic) name() string {
	sum := sha256.Sum256([]byte(t.ARN))
	return hex.EncodeToString(sum[:8])
}

// message renders the alert as the topic's subscribers want it.
func (t Topic) message(a Alert) (*sns.PublishInput, error) {
	r := t.Format.renderer()
	message, err := r.render(a)
	in := &sns.PublishInput{TopicArn: &t.ARN, Subject: aws.String(a.Subject()), Message: aws.String(string(message)), MessageAttributes: a.attributes()}
	if r.structure != "" {
		in.MessageStructure = &r.structure
	}
	return in, err
}

// attributes are what subscriptions filter by. Those of a digest that has several
// severities, kinds or events are lists, which a filter matches by each of their
// values, so that a subscriber to one of its calls gets it.
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
