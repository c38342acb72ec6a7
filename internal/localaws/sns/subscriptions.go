package sns

import (
	"context"
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/cmkeeper/cmkeeper/internal/localaws/pattern"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// of returns the topic's subscriptions in the order of their ARNs. The caller
// holds the lock.
func (s *Service) of(t *topic) []*subscription {
	var list []*subscription
	for _, arn := range slices.Sorted(maps.Keys(s.subscriptions)) {
		if sub := s.subscriptions[arn]; sub.topicARN == t.arn {
			list = append(list, sub)
		}
	}
	return list
}

type subscriptionARNOutput struct {
	SubscriptionARN string `xml:"SubscriptionArn"`
}

// subscribe subscribes a queue. A queue of the same account needs no confirmation.
func (s *Service) subscribe(ctx context.Context, form url.Values) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.topic(ctx, form.Get("TopicArn"), "Subscribe")
	if err != nil {
		return nil, err
	}
	if protocol := form.Get("Protocol"); protocol != "sqs" {
		return nil, invalid("Protocol: localaws delivers to sqs, not to %q", protocol)
	}
	endpoint := form.Get("Endpoint")
	if !strings.HasPrefix(endpoint, "arn:aws:sqs:") || strings.HasSuffix(endpoint, ".fifo") {
		return nil, invalid("SQS endpoint ARN")
	}
	attributes := entries(form, "Attributes.entry", "key", "value")
	set, err := parseSubscription(attributes)
	if err != nil {
		return nil, err
	}
	for _, old := range s.of(t) {
		if old.queueARN != endpoint {
			continue
		}
		for name, value := range attributes {
			if old.attributes[name] != value {
				return nil, invalid("Attributes Reason: Subscription already exists with different attributes")
			}
		}
		return subscriptionARNOutput{old.arn}, nil
	}
	sub := &subscription{
		arn: t.arn + ":" + wire.NewUUID(), topicARN: t.arn, queueARN: endpoint, principal: wire.CallerFrom(ctx).ARN,
		attributes: attributes, settings: set,
	}
	s.subscriptions[sub.arn] = sub
	return subscriptionARNOutput{sub.arn}, nil
}

// parseSubscription checks a subscription's attributes. An empty value stands
// for an attribute that was taken back.
func parseSubscription(attributes map[string]string) (set subscriptionSettings, _ error) {
	for name, value := range attributes {
		switch name {
		case "RawMessageDelivery":
			raw, err := strconv.ParseBool(value)
			if err != nil {
				return set, invalid("Attributes Reason: RawMessageDelivery: Invalid value [%s]. Must be true or false.", value)
			}
			set.raw = raw
		case "FilterPolicy":
			if value == "" || value == "{}" {
				continue
			}
			filter, err := pattern.Parse(value)
			if err != nil {
				return set, invalid("FilterPolicy: %v", err)
			}
			set.filter = filter
		case "FilterPolicyScope":
			if value != "MessageAttributes" && value != "MessageBody" {
				return set, invalid("Attributes Reason: FilterPolicyScope: Invalid value [%s].", value)
			}
			set.filterBody = value == "MessageBody"
		case "RedrivePolicy":
			var policy struct {
				DeadLetterTargetARN string `json:"deadLetterTargetArn"`
			}
			if value != "" && (json.Unmarshal([]byte(value), &policy) != nil || policy.DeadLetterTargetARN == "") {
				return set, invalid("RedrivePolicy: must be a JSON object with deadLetterTargetArn")
			}
			set.deadLetterARN = policy.DeadLetterTargetARN
		default:
			return set, invalid("AttributeName")
		}
	}
	return set, nil
}

// subscription returns a subscription if the caller may do the action on its
// topic. The caller holds the lock.
func (s *Service) subscription(ctx context.Context, arn, action string) (*subscription, error) {
	if strings.Count(arn, ":") != 6 {
		return nil, invalid("SubscriptionArn")
	}
	sub := s.subscriptions[arn]
	if sub == nil {
		return nil, notFound("Subscription")
	}
	return sub, s.authorize(ctx, action, s.topics[sub.topicARN])
}

// unsubscribe succeeds for a subscription that is not there, as on AWS.
func (s *Service) unsubscribe(ctx context.Context, form url.Values) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sub, err := s.subscription(ctx, form.Get("SubscriptionArn"), "Unsubscribe")
	if wire.IsCode(err, "NotFound") {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	delete(s.subscriptions, sub.arn)
	return nil, nil
}

func (s *Service) getSubscriptionAttributes(ctx context.Context, form url.Values) (any, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	sub, err := s.subscription(ctx, form.Get("SubscriptionArn"), "GetSubscriptionAttributes")
	if err != nil {
		return nil, err
	}
	attributes := pairs{
		"SubscriptionArn":              sub.arn,
		"TopicArn":                     sub.topicARN,
		"Owner":                        s.config.Account,
		"Protocol":                     "sqs",
		"Endpoint":                     sub.queueARN,
		"SubscriptionPrincipal":        sub.principal,
		"ConfirmationWasAuthenticated": "true",
		"PendingConfirmation":          "false",
		"RawMessageDelivery":           "false",
	}
	if sub.settings.filter != nil {
		attributes["FilterPolicyScope"] = "MessageAttributes"
	}
	for name, value := range sub.attributes {
		if value != "" {
			attributes[name] = value
		}
	}
	return attributesOutput{attributes}, nil
}

func (s *Service) setSubscriptionAttributes(ctx context.Context, form url.Values) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sub, err := s.subscription(ctx, form.Get("SubscriptionArn"), "SetSubscriptionAttributes")
	if err != nil {
		return nil, err
	}
	attributes := maps.Clone(sub.attributes)
	attributes[form.Get("AttributeName")] = form.Get("AttributeValue")
	set, err := parseSubscription(attributes)
	if err != nil {
		return nil, err
	}
	sub.attributes, sub.settings = attributes, set
	return nil, nil
}

type subscriptionEntry struct {
	SubscriptionARN string `xml:"SubscriptionArn"`
	Owner           string
	Protocol        string
	Endpoint        string
	TopicARN        string `xml:"TopicArn"`
}

type subscriptionsOutput struct {
	Subscriptions []subscriptionEntry `xml:"Subscriptions>member"`
	NextToken     string              `xml:",omitempty"`
}

func (s *Service) listSubscriptions(ctx context.Context, form url.Values) (any, error) {
	if c := wire.CallerFrom(ctx); !c.May("sns:ListSubscriptions", "*") {
		return nil, denied(ctx, "ListSubscriptions", "*")
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.subscriptionPage(slices.Sorted(maps.Keys(s.subscriptions)), form.Get("NextToken")), nil
}

func (s *Service) listSubscriptionsByTopic(ctx context.Context, form url.Values) (any, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	t, err := s.topic(ctx, form.Get("TopicArn"), "ListSubscriptionsByTopic")
	if err != nil {
		return nil, err
	}
	var arns []string
	for _, sub := range s.of(t) {
		arns = append(arns, sub.arn)
	}
	return s.subscriptionPage(arns, form.Get("NextToken")), nil
}

func (s *Service) subscriptionPage(arns []string, token string) subscriptionsOutput {
	arns, next := page(arns, token)
	out := subscriptionsOutput{NextToken: next}
	for _, arn := range arns {
		sub := s.subscriptions[arn]
		out.Subscriptions = append(out.Subscriptions, subscriptionEntry{sub.arn, s.config.Account, "sqs", sub.queueARN, sub.topicARN})
	}
	return out
}
