package sns

import (
	"context"
	"net/url"

	"github.com/cmkeeper/cmkeeper/internal/localaws/trail"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// parameters is what CloudTrail tells of a change; each operation has some of them.
type parameters struct {
	Name            string
	TopicARN        string `json:"TopicArn"`
	SubscriptionARN string `json:"SubscriptionArn"`
	ResourceARN     string `json:"ResourceArn"`
	AttributeName   string
	AttributeValue  string
	Protocol        string
	Endpoint        string
	Attributes      map[string]string
}

// recorded makes an operation of one whose calls are recorded.
func (s *Service) recorded(name string, operation wire.QueryOperation) wire.QueryOperation {
	return func(ctx context.Context, form url.Values) (any, error) {
		out, err := operation(ctx, form)
		p := parameters{
			Name: form.Get("Name"), TopicARN: form.Get("TopicArn"), SubscriptionARN: form.Get("SubscriptionArn"), ResourceARN: form.Get("ResourceArn"),
			AttributeName: form.Get("AttributeName"), AttributeValue: form.Get("AttributeValue"), Protocol: form.Get("Protocol"), Endpoint: form.Get("Endpoint"),
		}
		if attributes := entries(form, "Attributes.entry", "key", "value"); len(attributes) > 0 {
			p.Attributes = attributes
		}
		s.config.Trail.Call(trail.Call{
			Service: "sns", Operation: name, Caller: wire.CallerFrom(ctx), RequestID: wire.RequestIDFrom(ctx),
			Parameters: p, Response: out, Err: err,
		})
		s.config.Trail.Flush()
		return out, err
	}
}
