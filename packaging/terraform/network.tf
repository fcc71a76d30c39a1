# Who may speak to whom. Nothing is open but HTTP; SSH only where it is asked for.

locals {
  anywhere = ["0.0.0.0/0", "::/0"]
  # A load balancer speaks HTTPS when it has a certificate.
  http_ports = local.balanced ? (local.certificate ? [80, 443] : [80]) : var.http_ports

  # One host is spoken to directly, many by way of the load balancer. "443 from 203.0.113.0/24" is a rule's key, so
  # that a change of one range touches no other rule.
  http_rules = { for pair in setproduct(local.http_ports, var.http_cidrs) : "${pair[0]} from ${pair[1]}" => { port = pair[0], cidr = pair[1] } }
}

resource "aws_security_group" "host" {
  for_each = local.kinds

  name        = "${var.name}-${each.key}"
  description = "perch hosts (${each.key})"
  vpc_id      = var.vpc_id

  # A group that is in use can't be deleted: the new one first, then the hosts, then the old one goes.
  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_egress_rule" "host" {
  for_each = { for rule in setproduct(local.kinds, var.egress_ports, local.anywhere) : "${rule[0]} to ${rule[1]} at ${rule[2]}" => rule }

  # checkov:skip=CKV_AWS_382: one port, not all; Discord and AWS publish no short list of addresses.
  security_group_id = aws_security_group.host[each.value[0]].id
  description       = "AWS, Discord and chat APIs"
  ip_protocol       = "tcp"
  from_port         = each.value[1]
  to_port           = each.value[1]
  cidr_ipv4         = strcontains(each.value[2], ":") ? null : each.value[2]
  cidr_ipv6         = strcontains(each.value[2], ":") ? each.value[2] : null
}

resource "aws_vpc_security_group_ingress_rule" "one_host" {
  for_each = var.web == null ? local.http_rules : {}

  # checkov:skip=CKV_AWS_260: a public chat is for the public; http_cidrs narrows it.
  security_group_id = aws_security_group.host["bot"].id
  description       = "Chat"
  ip_protocol       = "tcp"
  from_port         = each.value.port
  to_port           = each.value.port
  cidr_ipv4         = strcontains(each.value.cidr, ":") ? null : each.value.cidr
  cidr_ipv6         = strcontains(each.value.cidr, ":") ? each.value.cidr : null
}

resource "aws_vpc_security_group_ingress_rule" "ssh" {
  for_each = var.ssh == null ? {} : { for rule in setproduct(local.kinds, var.ssh.cidrs) : "${rule[0]} from ${rule[1]}" => rule }

  security_group_id = aws_security_group.host[each.value[0]].id
  description       = "SSH"
  ip_protocol       = "tcp"
  from_port         = 22
  to_port           = 22
  cidr_ipv4         = strcontains(each.value[1], ":") ? null : each.value[1]
  cidr_ipv6         = strcontains(each.value[1], ":") ? each.value[1] : null
}

resource "aws_security_group" "load_balancer" {
  count = var.web == null ? 0 : 1

  name        = "${var.name}-load-balancer"
  description = "perch's load balancer"
  vpc_id      = var.vpc_id

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "load_balancer" {
  for_each = var.web == null ? {} : local.http_rules

  # checkov:skip=CKV_AWS_260: a public chat is for the public; http_cidrs narrows it.
  security_group_id = aws_security_group.load_balancer[0].id
  description       = "Chat"
  ip_protocol       = "tcp"
  from_port         = each.value.port
  to_port           = each.value.port
  cidr_ipv4         = strcontains(each.value.cidr, ":") ? null : each.value.cidr
  cidr_ipv6         = strcontains(each.value.cidr, ":") ? each.value.cidr : null
}

resource "aws_vpc_security_group_egress_rule" "load_balancer" {
  count = var.web == null ? 0 : 1

  security_group_id            = aws_security_group.load_balancer[0].id
  description                  = "Chat, to the hosts"
  ip_protocol                  = "tcp"
  from_port                    = 80
  to_port                      = 80
  referenced_security_group_id = aws_security_group.host["web"].id
}

resource "aws_vpc_security_group_ingress_rule" "web" {
  count = var.web == null ? 0 : 1

  # checkov:skip=CKV_AWS_260: from the load balancer alone.
  security_group_id            = aws_security_group.host["web"].id
  description                  = "Chat, from the load balancer"
  ip_protocol                  = "tcp"
  from_port                    = 80
  to_port                      = 80
  referenced_security_group_id = aws_security_group.load_balancer[0].id
}
