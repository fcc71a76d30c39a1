# The way in where there is more than one host, and the name that leads to it.

locals {
  balanced    = var.web != null
  certificate = local.balanced && var.domain != null

  # Where its requests come from: a node takes any free address of its subnet, and another when AWS replaces it. To targets
  # that are instances it speaks IPv4, whatever browsers speak to it.
  proxies = data.aws_subnet.load_balancer[*].cidr_block
}

# By count, as the ids may be those of subnets that are still to be made.
data "aws_subnet" "load_balancer" {
  count = local.balanced ? length(var.subnet_ids) : 0

  id = var.subnet_ids[count.index]
}

resource "aws_lb" "web" {
  count = local.balanced ? 1 : 0

  # checkov:skip=CKV_AWS_91: an access log needs a bucket that is open to the load balancers' account; perch's journal names each failed request.
  # checkov:skip=CKV2_AWS_28: a web application firewall costs more than the hosts; perch has limits of its own.
  # checkov:skip=CKV2_AWS_20: redirects to HTTPS where there is a domain; without one there is no certificate.
  # checkov:skip=CKV_AWS_150: guarded in production.
  name                       = var.name
  load_balancer_type         = "application"
  subnets                    = var.subnet_ids
  security_groups            = [aws_security_group.load_balancer[0].id]
  drop_invalid_header_fields = true
  enable_deletion_protection = local.production

  # A WebSocket on which nobody speaks, and an answer that is long in coming.
  idle_timeout = 300
}

resource "aws_lb_target_group" "web" {
  count = local.balanced ? 1 : 0

  # checkov:skip=CKV_AWS_378: TLS ends at the load balancer; its security group is all that reaches the hosts.
  name_prefix = "perch-"
  vpc_id      = var.vpc_id
  port        = 80
  protocol    = "HTTP"

  # As long as perch takes to finish what is in flight.
  deregistration_delay = 30

  # To the host with the fewest requests under way: an answer from a language model takes a thousand times an echo's time.
  load_balancing_algorithm_type = "least_outstanding_requests"

  health_check {
    path                = "/ready"
    matcher             = "200"
    interval            = 10
    timeout             = 5
    healthy_threshold   = 2
    unhealthy_threshold = 2
  }

  stickiness {
    type            = "lb_cookie"
    cookie_duration = var.web.sticky_seconds
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_lb_listener" "http" {
  count = local.balanced ? 1 : 0

  # checkov:skip=CKV_AWS_2: HTTP only redirects where there is a domain; without one there is no certificate to speak HTTPS with.
  # checkov:skip=CKV_AWS_103: as above.
  load_balancer_arn = aws_lb.web[0].arn
  port              = 80
  protocol          = "HTTP"

  default_action {
    type             = local.certificate ? "redirect" : "forward"
    target_group_arn = local.certificate ? null : aws_lb_target_group.web[0].arn

    dynamic "redirect" {
      for_each = local.certificate ? ["https"] : []

      content {
        protocol    = "HTTPS"
        port        = "443"
        status_code = "HTTP_301"
      }
    }
  }
}

resource "aws_lb_listener" "https" {
  count = local.certificate ? 1 : 0

  load_balancer_arn = aws_lb.web[0].arn
  port              = 443
  protocol          = "HTTPS"
  ssl_policy        = "ELBSecurityPolicy-TLS13-1-2-2021-06"
  certificate_arn   = aws_acm_certificate_validation.web[0].certificate_arn

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.web[0].arn
  }
}

resource "aws_acm_certificate" "web" {
  count = local.certificate ? 1 : 0

  domain_name       = var.domain.name
  validation_method = "DNS"

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_route53_record" "validation" {
  count = local.certificate ? 1 : 0

  zone_id         = var.domain.zone_id
  name            = tolist(aws_acm_certificate.web[0].domain_validation_options)[0].resource_record_name
  type            = tolist(aws_acm_certificate.web[0].domain_validation_options)[0].resource_record_type
  records         = [tolist(aws_acm_certificate.web[0].domain_validation_options)[0].resource_record_value]
  ttl             = 300
  allow_overwrite = true
}

resource "aws_acm_certificate_validation" "web" {
  count = local.certificate ? 1 : 0

  certificate_arn         = aws_acm_certificate.web[0].arn
  validation_record_fqdns = [aws_route53_record.validation[0].fqdn]
}

resource "aws_route53_record" "balanced" {
  count = local.certificate ? 1 : 0

  # checkov:skip=CKV2_AWS_23: attached: to the load balancer, by count.
  zone_id = var.domain.zone_id
  name    = var.domain.name
  type    = "A"

  alias {
    name                   = aws_lb.web[0].dns_name
    zone_id                = aws_lb.web[0].zone_id
    evaluate_target_health = true
  }
}

resource "aws_route53_record" "one_host" {
  count = !local.balanced && var.domain != null ? 1 : 0

  # checkov:skip=CKV2_AWS_23: attached: to the elastic address, by count.
  zone_id = var.domain.zone_id
  name    = var.domain.name
  type    = "A"
  ttl     = 300
  records = [aws_eip.host[0].public_ip]
}
